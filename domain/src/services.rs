//! What jobs and requests are given besides the database: the gateway, the sender of webhooks, and the settings.

use std::time::Duration;

use crate::{keyring::Keyring, payments, routes::Roads, webhooks};

/// The outside world as the fleet sees it, made once per process.
#[derive(Debug)]
pub struct Services {
    /// The payment gateway.
    pub gateway: payments::Gateway,
    /// The guarded sender of webhooks.
    pub sender: webhooks::Sender,
    /// What opens and seals secrets.
    pub keyring: Keyring,
    /// How long, how far, how many.
    pub settings: Settings,
}

/// The settings that rules depend on. `Settings::default()` is what an installation starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How long after confirmation a cancel wins; the capture is due when it ends. Zero to seven days less an hour
    /// of authorization to spare.
    pub cancel_window: Duration,
    /// How long a reservation holds stock for an order that nobody confirms.
    pub reservation_ttl: Duration,
    /// What a reservation is extended to while its payment is being authorized.
    pub confirm_ttl: Duration,
    /// How often one request is sent under one key before the payment is reconciled instead.
    pub sends_max: u32,
    /// How long the gateway keeps an idempotency key, with a margin: afterwards only questions are asked.
    pub key_retention: Duration,
    /// Days for which the history of finished jobs is kept.
    pub history_days: u16,
    /// How much longer a road is than the straight line, when no road distances are known.
    pub road_factor: f64,
    /// The speed of a van, for the same estimate.
    pub speed_kmh: f64,
    /// Who knows road distances, if somebody does.
    pub roads: Option<Roads>,
    /// Days for which road distances that no coming plan needs are kept after their last use.
    pub road_matrix_days: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cancel_window: Duration::from_secs(10 * 60),
            reservation_ttl: Duration::from_secs(15 * 60),
            confirm_ttl: Duration::from_secs(60 * 60),
            sends_max: 5,
            key_retention: Duration::from_secs(23 * 60 * 60),
            history_days: Self::HISTORY_DAYS,
            road_factor: 1.3,
            speed_kmh: 40.0,
            roads: None,
            road_matrix_days: 30,
        }
    }
}

/// A setting outside its bounds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("setting {name} must be {allowed}")]
pub struct OutOfBounds {
    /// The setting, as it is written in configuration.
    pub name: &'static str,
    /// What it may be.
    pub allowed: &'static str,
}

impl Settings {
    /// The longest cancel window: a capture must come before the authorization expires.
    pub const CANCEL_WINDOW_MAX: Duration = Duration::from_secs((7 * 24 - 24) * 60 * 60);

    /// Days of history that are kept unless somebody says otherwise.
    pub const HISTORY_DAYS: u16 = 30;

    /// Refuses values that would make a rule meaningless, with the setting's name.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let minute = Duration::from_secs(60);
        let day = Duration::from_secs(24 * 60 * 60);
        let refuse = |name, allowed| Err(OutOfBounds { name, allowed });
        if self.cancel_window > Self::CANCEL_WINDOW_MAX {
            return refuse("cancel_window", "at most six days");
        }
        if self.reservation_ttl < minute || self.reservation_ttl > day {
            return refuse("reservation_ttl", "from one minute to one day");
        }
        if self.confirm_ttl < minute || self.confirm_ttl > 2 * day {
            return refuse("confirm_ttl", "from one minute to two days");
        }
        if !(1..=100).contains(&self.sends_max) {
            return refuse("sends_max", "from 1 to 100");
        }
        if self.key_retention < minute || self.key_retention >= day {
            return refuse("key_retention", "from one minute to less than one day");
        }
        if !(1..=3650).contains(&self.history_days) {
            return refuse("history_days", "from 1 to 3650");
        }
        if !(1.0..=3.0).contains(&self.road_factor) {
            return refuse("road_factor", "from 1.0 to 3.0");
        }
        if !(5.0..=130.0).contains(&self.speed_kmh) {
            return refuse("speed_kmh", "from 5 to 130");
        }
        if !(1..=365).contains(&self.road_matrix_days) {
            return refuse("road_matrix_days", "from 1 to 365");
        }
        if let Some(roads) = &self.roads {
            roads.check()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_bounds_is_refused_by_name() {
        let eight_days = Duration::from_secs(8 * 24 * 60 * 60);
        let refused = Settings {
            cancel_window: eight_days,
            ..Settings::default()
        }
        .check();
        assert_eq!(refused.map_err(|refused| refused.name), Err("cancel_window"));
        let refused = Settings {
            road_factor: f64::NAN,
            ..Settings::default()
        }
        .check();
        assert_eq!(refused.map_err(|refused| refused.name), Err("road_factor"));
    }
}
