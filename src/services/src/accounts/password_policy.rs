//! What new passwords must be like. Passwords that were set before the policy stay good.

/// What is asked of passwords that users choose. The default asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// In characters.
    pub length_min: usize,
    pub require_digit: bool,
    /// Anything that is neither letter nor digit.
    pub require_symbol: bool,
    pub require_lowercase: bool,
    pub require_uppercase: bool,
}

/// What a password lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    #[error("the password must have at least {length_min} characters")]
    TooShort { length_min: usize },
    #[error("the password must have a digit")]
    NoDigit,
    #[error("the password must have a character that is neither letter nor digit")]
    NoSymbol,
    #[error("the password must have a small letter")]
    NoLowercase,
    #[error("the password must have a capital letter")]
    NoUppercase,
}

impl PasswordPolicy {
    pub fn check(&self, password: &str) -> Result<(), WeakPassword> {
        if password.chars().count() < self.length_min {
            return Err(WeakPassword::TooShort { length_min: self.length_min });
        }
        let lacks = |kind: fn(char) -> bool| !password.chars().any(kind);
        if self.require_digit && lacks(char::is_numeric) {
            return Err(WeakPassword::NoDigit);
        }
        if self.require_symbol && lacks(|letter| !letter.is_alphanumeric()) {
            return Err(WeakPassword::NoSymbol);
        }
        if self.require_lowercase && lacks(char::is_lowercase) {
            return Err(WeakPassword::NoLowercase);
        }
        if self.require_uppercase && lacks(char::is_uppercase) {
            return Err(WeakPassword::NoUppercase);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_is_named_when_it_is_not_met() {
        let policy = PasswordPolicy {
            length_min: 4,
            require_digit: true,
            require_symbol: true,
            require_lowercase: true,
            require_uppercase: true,
        };
        for (password, expected) in [
            ("éaé", Err(WeakPassword::TooShort { length_min: 4 })),
            ("aA- x", Err(WeakPassword::NoDigit)),
            ("aA1x", Err(WeakPassword::NoSymbol)),
            ("AA1-", Err(WeakPassword::NoLowercase)),
            ("aa1-", Err(WeakPassword::NoUppercase)),
            ("aA1-", Ok(())),
        ] {
            assert_eq!(policy.check(password), expected, "{password}");
        }
        assert_eq!(PasswordPolicy::default().check(""), Ok(()));
    }
}
