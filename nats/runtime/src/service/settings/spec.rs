//! A setting as documents list it. Holds no value.

/// A setting as documents list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name, as in the environment.
    pub name: &'static str,
    /// One or more sentences for operators.
    pub meaning: &'static str,
    /// Which values the reader takes, such as `1 to 10`. Empty for any text.
    pub accepts: String,
    /// The value where none is set.
    pub unset: Unset,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
    /// Whether the value must not be shown to anybody.
    pub secret: bool,
}

/// What holds where a setting has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unset {
    /// The service does not start.
    Required,
    /// The service does not start in production.
    RequiredInProduction,
    /// The setting stays without a value.
    Nothing,
    /// This default.
    Value(String),
    /// A default that depends on something, in words.
    Described(&'static str),
}
