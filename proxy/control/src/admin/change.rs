//! Changes of the settings that all nodes share: what is not named stays as whoever carries them
//! out has it, so that two operators who change different things do not undo each other's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::cluster::{Durability, Policy};
use crate::lease::Settings;

/// A change of the shared settings; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SharedChange {
    /// What to do when standbys are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// How long leases last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<SettingsChange>,
    /// The conduct of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyChange>,
}

/// A struct of the same fields, each of which may be absent.
macro_rules! change {
    ($(#[$doc:meta])* $change:ident of $whole:ident { $($field:ident: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $change {
            $(
                #[doc = concat!("Another `", stringify!($field), "`.")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$kind>,
            )+
        }

        impl $change {
            fn onto(self, before: $whole) -> $whole {
                $whole { $($field: self.$field.unwrap_or(before.$field),)+ }
            }
        }

        impl From<$whole> for $change {
            fn from(whole: $whole) -> Self {
                Self { $($field: Some(whole.$field),)+ }
            }
        }
    };
}

change! {
    /// A change of [`Settings`].
    SettingsChange of Settings {
        lease_ms: u64,
        renewal_ms: u64,
        drift_percent: u64,
        margin_ms: u64,
    }
}

change! {
    /// A change of [`Policy`].
    PolicyChange of Policy {
        sync_standbys: usize,
        silent_ms_max: u64,
        establish_ms_max: u64,
        attempt_ms_max: u64,
        switchover_ms_max: u64,
        drain_ms_max: u64,
        hung_ms_max: u64,
        steady_ms_min: u64,
    }
}

impl SharedChange {
    /// What comes of it.
    #[must_use]
    pub fn onto(self, before: Shared) -> Shared {
        Shared {
            durability: self.durability.unwrap_or(before.durability),
            lease: self.lease.unwrap_or_default().onto(before.lease),
            policy: self.policy.unwrap_or_default().onto(before.policy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let policy = Policy { sync_standbys: 3, ..Policy::default() };
        let (durability, lease) = (Durability::Available, Settings::default());
        let before = Shared { durability, lease, policy };
        let text = r#"{"policy": {"hung_ms_max": 5000}, "lease": {"lease_ms": 3000}}"#;
        let after = serde_json::from_str::<SharedChange>(text).unwrap().onto(before);
        let policy = Policy { hung_ms_max: 5_000, ..policy };
        let lease = Settings { lease_ms: 3_000, ..lease };
        assert_eq!(after, Shared { durability, lease, policy });
        assert_eq!(SharedChange::default().onto(before), before);
        assert!(serde_json::from_str::<SharedChange>(r#"{"policy": {"hung": 1}}"#).is_err());
    }
}
