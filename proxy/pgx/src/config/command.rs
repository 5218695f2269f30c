//! `pgx config`: checks a file, prints an example of one, or what is answered by HTTP.

use toml_example::TomlExample;

use super::raw;
use crate::cli::ConfigVerb;
use crate::exit::Failure;
use crate::http::openapi;

/// Runs the verb.
pub(crate) fn run(verb: &ConfigVerb) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Check { file } => {
            super::load(file)?;
            println!("{} is usable", file.display());
        }
        ConfigVerb::Example => print!("{}", example()),
        ConfigVerb::Openapi => print!("{}", openapi::text()),
    }
    Ok(())
}

/// A configuration with every key, made from the doc comments of its types.
fn example() -> String {
    raw::Config::toml_example()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The copy of the example that documentation shows.
    const COMMITTED: &str = include_str!("../../../../docs/pgx.example.toml");

    #[test]
    fn example_is_usable_with_its_optional_sections_switched_on() {
        let switch_on = |line: &str| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with('[') || setting.contains(" = ") => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        };
        let text: String = example().lines().map(switch_on).collect();
        // Databases need a pool, and none is the default.
        let text = text.replacen("pool_mode = \"none\"", "pool_mode = \"transaction\"", 1);
        let text = text.replacen("auth_type = \"scram-sha-256\"", "auth_type = \"trust\"", 1);
        let config = super::super::parse(&text).unwrap();
        assert!(config.proxy.is_some() && config.vip.is_some(), "{text}");
        assert_eq!(config.control.unwrap().peers.len(), 1, "{text}");
    }

    #[test]
    fn documented_example_is_what_the_binary_prints() {
        assert_eq!(COMMITTED, example(), "run: cargo xtask fix");
    }
}
