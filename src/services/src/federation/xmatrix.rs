//! The `Authorization: X-Matrix` header: made for requests that go out, taken apart and checked for those that come in.
//!
//! The signed object is written with the lenient canonical form of JSON: one odd number inside one event must not make a whole
//! transaction unverifiable. Fetching the keys to check with is the work of [`super::keys`].

use chappe_protocol::{
    json::canonical_lenient,
    sign::{PublicKeys, ServerSigner, VerifyError, verify_bytes},
};
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName, serde::Base64};
use serde_json::{Value, json};

/// The longest header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// The header, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    pub origin: OwnedServerName,
    /// Older servers leave it out.
    pub destination: Option<OwnedServerName>,
    pub key: OwnedServerSigningKeyId,
    /// Base64.
    pub signature: String,
}

/// Why a header is no X-Matrix header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XMatrixError {
    #[error("not an X-Matrix authorization header")]
    Scheme,
    #[error("malformed X-Matrix parameters")]
    Syntax,
    #[error("X-Matrix parameter `{0}` is missing")]
    Missing(&'static str),
    #[error("X-Matrix parameter `{0}` is given twice")]
    Duplicate(&'static str),
    #[error("X-Matrix parameter `{0}` is not valid")]
    Invalid(&'static str),
}

/// The request a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// Upper case.
    pub method: &'a str,
    /// Path and query, as on the wire.
    pub uri: &'a str,
    pub origin: &'a ServerName,
    pub destination: &'a ServerName,
    /// The JSON body, if there is one.
    pub content: Option<&'a Value>,
}

impl SignedRequest<'_> {
    /// The text that is signed.
    ///
    /// Spec: Server-Server API, Request Authentication.
    fn text(&self) -> String {
        let mut object = json!({
            "method": self.method,
            "uri": self.uri,
            "origin": self.origin,
            "destination": self.destination,
        });
        if let (Some(content), Some(fields)) = (self.content, object.as_object_mut()) {
            fields.insert("content".to_owned(), content.clone());
        }
        canonical_lenient(&object)
    }

    /// The value of the `Authorization` header for this request.
    pub fn sign(&self, signer: &ServerSigner) -> String {
        let signature = signer.sign_bytes(self.text().as_bytes());
        format!(
            r#"X-Matrix origin="{}",destination="{}",key="{}",sig="{}""#,
            self.origin,
            self.destination,
            signer.key_id(),
            signature
        )
    }

    /// Checks a signature. `keys` holds only keys that are valid now.
    pub fn verify(&self, header: &XMatrix, keys: &PublicKeys) -> Result<(), VerifyError> {
        verify_bytes(self.origin.as_str(), header.key.as_str(), keys, &header.signature, self.text().as_bytes())
    }
}

impl XMatrix {
    /// Reads the value of an `Authorization` header. Parameters may be quoted or not, in any order, with white space around
    /// them and in any case; unknown ones are ignored.
    pub fn parse(header: &str) -> Result<Self, XMatrixError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(XMatrixError::Syntax);
        }
        let header = header.trim();
        let (scheme, parameters) = header.split_once([' ', '\t']).ok_or(XMatrixError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(XMatrixError::Scheme);
        }
        let (mut origin, mut destination, mut key, mut signature) = (None, None, None, None);
        let mut rest = parameters;
        while let Some((name, value, after)) = next_parameter(rest)? {
            rest = after;
            let (slot, known) = match name.to_ascii_lowercase().as_str() {
                "origin" => (&mut origin, "origin"),
                "destination" => (&mut destination, "destination"),
                "key" => (&mut key, "key"),
                "sig" => (&mut signature, "sig"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(XMatrixError::Duplicate(known));
            }
        }
        let origin = origin.ok_or(XMatrixError::Missing("origin"))?;
        let key = key.ok_or(XMatrixError::Missing("key"))?;
        let signature = signature.ok_or(XMatrixError::Missing("sig"))?;
        if Base64::<ruma::serde::base64::Standard>::parse(&signature).is_err() {
            return Err(XMatrixError::Invalid("sig"));
        }
        Ok(Self {
            origin: origin.try_into().map_err(|_| XMatrixError::Invalid("origin"))?,
            destination: destination
                .map(OwnedServerName::try_from)
                .transpose()
                .map_err(|_| XMatrixError::Invalid("destination"))?,
            key: key.try_into().map_err(|_| XMatrixError::Invalid("key"))?,
            signature,
        })
    }
}

/// The next `name=value` and what follows it; `None` at the end.
fn next_parameter(text: &str) -> Result<Option<(&str, String, &str)>, XMatrixError> {
    // Empty list elements are allowed (RFC 9110, section 5.6.1).
    let text = text.trim_start_matches([' ', '\t', ',']);
    if text.is_empty() {
        return Ok(None);
    }
    let (name, rest) = text.split_once('=').ok_or(XMatrixError::Syntax)?;
    let name = name.trim_end();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        return Err(XMatrixError::Syntax);
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted)?,
        None => {
            let end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            (value.to_owned(), rest)
        }
    };
    let rest = rest.trim_start_matches([' ', '\t']);
    if !rest.is_empty() && !rest.starts_with(',') {
        return Err(XMatrixError::Syntax);
    }
    Ok(Some((name, value, rest)))
}

/// Reads a quoted string whose opening quote is gone.
fn quoted_string(text: &str) -> Result<(String, &str), XMatrixError> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(chars.next().ok_or(XMatrixError::Syntax)?.1),
            other => value.push(other),
        }
    }
    Err(XMatrixError::Syntax)
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn signer() -> ServerSigner {
        ServerSigner::from_seed(owned_server_name!("origin.example"), "key1", &[7; 32]).expect("a signer")
    }

    fn request<'a>(content: Option<&'a Value>) -> SignedRequest<'a> {
        SignedRequest {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=b%20c",
            origin: server_name!("origin.example"),
            destination: server_name!("destination.example:8448"),
            content,
        }
    }

    #[test]
    fn header_of_the_specification_is_read() {
        let parsed = XMatrix::parse(
            r#"X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="ABCDEF...""#,
        );
        assert_eq!(parsed, Err(XMatrixError::Invalid("sig")));
        let parsed = XMatrix::parse(
            r#"X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="ABCDEFGH""#,
        )
        .expect("a header");
        assert_eq!(parsed.origin, "origin.hs.example.com");
        assert_eq!(parsed.destination.expect("a destination"), "destination.hs.example.com");
        assert_eq!(parsed.key, "ed25519:key1");
        assert_eq!(parsed.signature, "ABCDEFGH");
    }

    #[test]
    fn unquoted_spaced_reordered_and_unknown_parameters_are_read() {
        for header in [
            "X-Matrix origin=a.example:8448,key=ed25519:k,sig=AAAA",
            "x-matrix  sig=AAAA , KEY = \"ed25519:k\" ,\torigin=\"a.example:8448\"",
            r#"X-Matrix origin="a.example:8448",key="ed25519:\k",sig="AAAA",extension="x,\"y\"=""#,
            "X-Matrix ,,origin=a.example:8448,,key=ed25519:k,sig=AAAA,",
        ] {
            let parsed = XMatrix::parse(header).unwrap_or_else(|error| panic!("{header}: {error}"));
            assert_eq!(parsed.origin, "a.example:8448", "{header}");
            assert_eq!(parsed.key, "ed25519:k", "{header}");
            assert_eq!(parsed.destination, None, "{header}");
        }
    }

    #[test]
    fn broken_headers_are_refused_with_the_reason() {
        use XMatrixError::{Duplicate, Invalid, Missing, Scheme, Syntax};
        for (header, expected) in [
            ("", Scheme),
            ("X-Matrix", Scheme),
            ("Bearer origin=a", Scheme),
            ("X-Matrix origin", Syntax),
            ("X-Matrix origin=\"a.example", Syntax),
            ("X-Matrix origin=\"a.example\"x,key=ed25519:k", Syntax),
            ("X-Matrix origin=a.example,origin=b.example,key=ed25519:k,sig=AAAA", Duplicate("origin")),
            ("X-Matrix key=ed25519:k,sig=AAAA", Missing("origin")),
            ("X-Matrix origin=a.example,sig=AAAA", Missing("key")),
            ("X-Matrix origin=a.example,key=ed25519:k", Missing("sig")),
            ("X-Matrix origin=\"a b\",key=ed25519:k,sig=AAAA", Invalid("origin")),
            ("X-Matrix origin=a.example,key=nokey,sig=AAAA", Invalid("key")),
            ("X-Matrix origin=a.example,key=ed25519:k,sig=\"!!\"", Invalid("sig")),
            ("X-Matrix origin=a.example,destination=\"\",key=ed25519:k,sig=AAAA", Invalid("destination")),
        ] {
            assert_eq!(XMatrix::parse(header), Err(expected), "{header}");
        }
    }

    #[test]
    fn signed_text_is_the_canonical_request_object() {
        let content = json!({"b": 1, "a": 1.5});
        assert_eq!(
            request(Some(&content)).text(),
            r#"{"content":{"a":1.5,"b":1},"destination":"destination.example:8448","method":"PUT","origin":"origin.example","uri":"/_matrix/federation/v1/send/1?a=b%20c"}"#
        );
        assert!(!request(None).text().contains("content"));
    }

    #[test]
    fn signature_holds_for_the_request_it_was_made_for_and_no_other() {
        let content = json!({"pdus": [{"depth": 1.0e3}]});
        let signer = signer();
        let header = XMatrix::parse(&request(Some(&content)).sign(&signer)).expect("a header");
        let keys = signer.public_keys();
        assert!(request(Some(&content)).verify(&header, &keys).is_ok());
        assert!(request(None).verify(&header, &keys).is_err());
        let elsewhere = SignedRequest { destination: server_name!("else.example"), ..request(Some(&content)) };
        assert!(elsewhere.verify(&header, &keys).is_err());
        let other_path = SignedRequest { uri: "/_matrix/federation/v1/send/2", ..request(Some(&content)) };
        assert!(matches!(other_path.verify(&header, &keys), Err(VerifyError::WrongSignature(_))));
        assert!(matches!(request(Some(&content)).verify(&header, &PublicKeys::new()), Err(VerifyError::NoKey(_))));
    }
}
