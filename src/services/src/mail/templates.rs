//! The words of mails and of the pages they lead to, which an operator can replace one by one.
//!
//! A file in the operator's directory stands in for the built-in template of the same name. All are read, and checked, at start.

use std::{
    io,
    path::{Path, PathBuf},
};

use minijinja::{AutoEscape, Environment, value::Serde};

/// The largest template of an operator, in bytes.
const TEMPLATE_BYTES_MAX: u64 = 256 * 1024;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("templates/", $name)))),*]
    };
}

/// Every template, with the words it has unless the operator has others.
const BUILT_IN: &[(&str, &str)] = &built_in![
    "add_address.subject",
    "add_address.txt",
    "add_address.html",
    "already_in_use.subject",
    "already_in_use.txt",
    "already_in_use.html",
    "notifications.subject",
    "notifications.txt",
    "notifications.html",
    "password_reset.subject",
    "password_reset.txt",
    "password_reset.html",
    "registration.subject",
    "registration.txt",
    "registration.html",
    "confirm.page.html",
    "confirmed.page.html",
    "refused.page.html",
    "unsubscribe.page.html",
    "unsubscribed.page.html",
];

#[derive(Debug, thiserror::Error)]
pub enum TemplatesError {
    #[error("{}: the template cannot be read: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: larger than {TEMPLATE_BYTES_MAX} bytes", .path.display())]
    TooLarge { path: PathBuf },
    #[error("the template {name}: {cause}")]
    Syntax { name: String, cause: String },
}

#[derive(Debug, thiserror::Error)]
#[error("the template {name}: {cause}")]
pub struct RenderError {
    name: String,
    cause: String,
}

pub struct Templates(Environment<'static>);

impl Templates {
    /// The built-in templates, and those of the directory in place of them.
    pub fn load(dir: Option<&Path>) -> Result<Self, TemplatesError> {
        let mut environment = Environment::new();
        environment
            .set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
        for (name, built_in) in BUILT_IN {
            let text = match dir.map(|dir| dir.join(name)) {
                Some(path) => read(&path)?.unwrap_or_else(|| (*built_in).to_owned()),
                None => (*built_in).to_owned(),
            };
            environment
                .add_template_owned((*name).to_owned(), text)
                .map_err(|error| TemplatesError::Syntax { name: (*name).to_owned(), cause: format!("{error:#}") })?;
        }
        Ok(Self(environment))
    }

    pub fn render(&self, name: &str, values: impl serde::Serialize) -> Result<String, RenderError> {
        let render = || self.0.get_template(name)?.render(Serde(&values));
        render().map_err(|error| RenderError { name: name.to_owned(), cause: format!("{error:#}") })
    }
}

fn read(path: &Path) -> Result<Option<String>, TemplatesError> {
    let unreadable = |error| TemplatesError::Unreadable { path: path.to_owned(), error };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(metadata) if metadata.len() > TEMPLATE_BYTES_MAX => {
            return Err(TemplatesError::TooLarge { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(unreadable)
}
