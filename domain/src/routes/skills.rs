//! What vehicles can do and shipments ask for, by name: a cold chain, a tail lift. A problem has a bit for each.

use std::collections::BTreeSet;

use super::Error;

/// The most different skills that one day may know.
const SKILLS_MAX: usize = 64;
/// The most that one vehicle has or one shipment asks for.
const SKILLS_EACH_MAX: usize = 16;
/// The longest name.
const NAME_MAX: usize = 40;

/// The skills of a day, each at its bit.
pub(super) struct Names(Vec<String>);

impl Names {
    /// In alphabetical order, so that the same names are the same bits.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a String>) -> Result<Names, Error> {
        let names: BTreeSet<&String> = names.collect();
        if names.len() > SKILLS_MAX {
            return Err(Error::OutOfBounds {
                field: "skills",
                allowed: "at most 64 different ones for one day",
            });
        }
        Ok(Names(names.into_iter().cloned().collect()))
    }

    /// These, as bits.
    pub(super) fn bits(&self, names: &[String]) -> u64 {
        let bit = |name: &String| self.0.binary_search(name).map_or(0, |at| 1 << at);
        names.iter().map(bit).fold(0, |bits, bit| bits | bit)
    }
}

/// Refuses names that nobody could tell apart or write down.
pub(super) fn check(names: &[String]) -> Result<(), Error> {
    let is_word = |name: &String| {
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_fit)
    };
    let is_unique = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    match names.len() <= SKILLS_EACH_MAX && is_unique && names.iter().all(is_word) {
        true => Ok(()),
        false => Err(Error::OutOfBounds {
            field: "skills",
            allowed: "at most 16 different words of up to 40 lower-case letters, digits and _",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_same_names_are_the_same_bits_in_any_order() {
        let (one, other) = (
            words(&["cold", "lift", "glass"]),
            words(&["lift", "cold", "glass", "cold"]),
        );
        let (one, other) = (Names::of(one.iter()), Names::of(other.iter()));
        let (Ok(one), Ok(other)) = (one, other) else {
            panic!("three names are not too many");
        };
        assert_eq!(
            one.bits(&words(&["lift", "cold"])),
            other.bits(&words(&["cold", "lift"]))
        );
        assert_eq!(one.bits(&words(&["unheard_of"])), 0);
        let many: Vec<String> = (0..65).map(|n| format!("skill_{n}")).collect();
        assert!(Names::of(many.iter()).is_err());
    }

    #[test]
    fn a_skill_is_a_word_and_named_once() {
        assert!(check(&words(&["cold", "tail_lift"])).is_ok());
        for bad in [&["cold", "cold"][..], &[""], &["Cold"], &["tail lift"]] {
            assert!(check(&words(bad)).is_err(), "{bad:?}");
        }
    }
}
