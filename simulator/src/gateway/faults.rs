//! Trouble to order: rules that say which requests go wrong, how, how often and with which luck.
//!
//! Every rule draws from a sequence of its own that its seed determines: the same seed and the same requests in the same
//! order go wrong in the same places. Where the order differs from run to run, because many are under way at once, a rule
//! can draw by amount instead: what happens to the n-th request of a kind about an intent then depends on the seed, the
//! kind, the intent's amount and n, whenever it comes.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::requests::ROUTES;

/// Rules one gateway may have at a time.
pub(super) const RULES_MAX: usize = 64;
/// The longest delay that can be ordered.
const DELAY_MAX_MS: u64 = 10 * 60 * 1000;
const RETRY_AFTER_MAX_S: u64 = 24 * 60 * 60;

/// The pseudo-route of what is sent to webhook endpoints.
pub(super) const WEBHOOKS: &str = "webhooks";

/// The faults to order, for `--help`. Each is a variant of [`Kind`].
pub const ORDERED_FAULTS: &str = "\
Trouble to order, from /_simulator/faults (JSON; no key; GET lists, DELETE takes all away, DELETE /{id} one):
  curl -d '{\"route\": \"POST *\", \"fault\": \"answer_lost\", \"probability\": 0.05, \"seed\": 7}' localhost:PORT/_simulator/faults
  route        one endpoint as in \"POST /v1/payment_intents/{id}/confirm\", \"POST *\", \"GET *\", \"*\", or \"webhooks\"
  fault        one of these:
    delay_before        waits delay_ms, then executes; the key is in use meanwhile (409)
    delay_after         executes, then waits delay_ms, then answers
    answer_lost         executes, then drops the connection; the key replays the answer
    reset               drops the connection, nothing executed
    error_stored        500 that stays under the key, nothing executed
    error_stored_after  500 that stays under the key, although it was executed
    unavailable         503, nothing executed, nothing stored
    rate_limit          429 rate_limit, nothing executed, nothing stored; also with retry_after_s
    lock_timeout        429 lock_timeout, nothing executed, nothing stored
    conflict            409 idempotency_key_in_use, nothing executed, nothing stored
    wrong_json          executes, then answers 200 with half of the JSON
    crash               the simulator's process dies after the operation is in the ledger, before it is answered
    and for webhooks: duplicate, late (by delay_ms), reorder (each late by up to delay_ms), lost
  probability  0 to 1, of each matching request (1)
  count        how often at most (without end)
  skip         matching requests that are let by first: skip 41 and count 1 hit the 42nd (0)
  seed         of the luck (the simulator's own)
  by           \"amount\": the luck of the n-th request of a kind hangs on the amount of the intent it is about and not on
               which requests came before it: intents of different amounts then have the same luck in every run
  amount       only requests that name this amount in minor units
  should_retry true or false, sent as Stripe-Should-Retry with an error
The clock, for authorisations that end after 7 days and keys kept for 24 hours:
  curl -d '{\"advance_s\": 604800}' localhost:PORT/_simulator/clock
The webhooks, how they are doing and when a refused one is sent again (1000 ms, doubling up to an hour, 16 tries):
  curl localhost:PORT/_simulator/post;  curl -d '{\"retry_ms\": 50}' localhost:PORT/_simulator/post
";

/// What is ordered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    route: String,
    pub(super) fault: Kind,
    #[serde(default = "always")]
    probability: f64,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    skip: u64,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    by: Option<By>,
    #[serde(default)]
    amount: Option<i64>,
    #[serde(default)]
    pub(super) delay_ms: u64,
    #[serde(default)]
    pub(super) retry_after_s: Option<u64>,
    #[serde(default)]
    pub(super) should_retry: Option<bool>,
}

fn always() -> f64 {
    1.0
}

/// What luck hangs on besides the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    /// The amount of the intent, the kind of request, and how many of that kind came before for that amount.
    Amount,
}

/// A request, or a letter of the post, as far as it matters for trouble.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Its route, or [`WEBHOOKS`].
    pub(super) route: &'a str,
    /// The kind of it: the route again, or the kind of event.
    pub(super) kind: &'a str,
    /// The amount that the request names.
    pub(super) named: Option<i64>,
    /// The amount of the intent it is about.
    pub(super) amount: Option<i64>,
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    DelayBefore,
    DelayAfter,
    AnswerLost,
    Reset,
    ErrorStored,
    ErrorStoredAfter,
    Unavailable,
    RateLimit,
    LockTimeout,
    Conflict,
    WrongJson,
    Crash,
    Duplicate,
    Late,
    Reorder,
    Lost,
}

impl Kind {
    fn is_of_webhooks(self) -> bool {
        matches!(self, Self::Duplicate | Self::Late | Self::Reorder | Self::Lost)
    }

    fn needs_delay(self) -> bool {
        matches!(self, Self::DelayBefore | Self::DelayAfter | Self::Late | Self::Reorder)
    }

    /// Whether it can happen to a question as well, which stores nothing.
    fn is_of_commands_only(self) -> bool {
        matches!(self, Self::ErrorStored | Self::ErrorStoredAfter | Self::Conflict)
    }
}

/// An error that takes the place of an answer, under the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing is executed.
    Instead,
    /// It was executed.
    After,
}

/// A rule, and how often it was asked and struck.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    id: u64,
    #[serde(flatten)]
    order: Order,
    seen: u64,
    fired: u64,
    #[serde(skip)]
    luck: Luck,
    /// How many of each kind came for each amount, where luck hangs on that.
    #[serde(skip)]
    seen_by: HashMap<(String, i64), u64>,
}

/// All rules, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    made: u64,
    seed: u64,
}

impl Rules {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rules: Vec::new(),
            made: 0,
            seed,
        }
    }

    /// Takes an order on; answers what is wrong with it.
    pub(super) fn add(&mut self, mut order: Order) -> Result<&Rule, String> {
        if self.rules.len() >= RULES_MAX {
            return Err(format!("there are {RULES_MAX} rules already: take some away"));
        }
        order.check()?;
        self.made += 1;
        let seed = *order.seed.get_or_insert(self.seed.wrapping_add(self.made));
        let rule = Rule {
            id: self.made,
            order,
            seen: 0,
            fired: 0,
            luck: Luck(seed),
            seen_by: HashMap::new(),
        };
        self.rules.push(rule);
        Ok(&self.rules[self.rules.len() - 1])
    }

    pub(super) fn all(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Takes one rule away; false when there is none.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.id != id);
        self.rules.len() < before
    }

    /// What strikes a request: every delay that fires, and the first of the other faults.
    pub(super) fn strike(&mut self, asked: Asked<'_>) -> Vec<Strike> {
        let mut struck: Vec<Strike> = Vec::new();
        for rule in self.rules.iter_mut().filter(|rule| rule.order.is_about(&asked)) {
            let is_late = rule.order.fault.needs_delay();
            let is_taken = struck.iter().any(|strike| !strike.order.fault.needs_delay());
            if !is_late && is_taken {
                continue;
            }
            if let Some(luck) = rule.fires(&asked) {
                let order = rule.order.clone();
                struck.push(Strike { order, luck });
            }
        }
        struck
    }
}

/// A rule that has fired, with some luck of its own.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    pub(super) order: Order,
    luck: f64,
}

impl Strike {
    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.order.delay_ms)
    }

    /// A part of the delay, by luck.
    pub(super) fn some_delay(&self) -> Duration {
        self.delay().mul_f64(self.luck)
    }
}

impl Rule {
    /// Some luck for the strike, if it is one.
    fn fires(&mut self, asked: &Asked<'_>) -> Option<f64> {
        self.seen += 1;
        let may_fire = self.seen > self.order.skip && self.order.count.is_none_or(|count| self.fired < count);
        let mut of_amount = self.luck_of_amount(asked);
        let luck = of_amount.as_mut().unwrap_or(&mut self.luck);
        // The draw is made either way, so that what a rule does next depends on its seed and place alone.
        let is_struck = luck.unit() < self.order.probability && may_fire;
        self.fired += u64::from(is_struck);
        is_struck.then(|| luck.unit())
    }

    /// The luck of this request alone, where it hangs on the amount and there is one.
    fn luck_of_amount(&mut self, asked: &Asked<'_>) -> Option<Luck> {
        let (By::Amount, amount) = (self.order.by?, asked.amount?);
        let seen = self.seen_by.entry((asked.kind.to_owned(), amount)).or_default();
        *seen += 1;
        let seed = self.order.seed.unwrap_or_default();
        let words = asked.kind.bytes().map(u64::from).chain([amount.cast_unsigned(), *seen]);
        Some(words.fold(Luck(seed), |mut luck, word| {
            luck.0 = luck.next() ^ word;
            luck
        }))
    }
}

impl Order {
    fn check(&self) -> Result<(), String> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return Err("probability must be above 0 and at most 1".to_owned());
        }
        if self.delay_ms > DELAY_MAX_MS {
            return Err(format!("delay_ms must be at most {DELAY_MAX_MS}"));
        }
        if self.fault.needs_delay() && self.delay_ms == 0 {
            return Err("this fault needs delay_ms".to_owned());
        }
        if self.retry_after_s.is_some_and(|seconds| seconds > RETRY_AFTER_MAX_S) {
            return Err(format!("retry_after_s must be at most {RETRY_AFTER_MAX_S}"));
        }
        let is_known = self.route == WEBHOOKS || is_group(&self.route) || ROUTES.contains(&self.route.as_str());
        if !is_known {
            let routes = ROUTES.join("; ");
            return Err(format!(
                "there is no route {:?}; there are *; POST *; GET *; webhooks; {routes}",
                self.route
            ));
        }
        if self.fault.is_of_webhooks() != (self.route == WEBHOOKS) {
            return Err("duplicate, late, reorder and lost happen to webhooks, and nothing else does".to_owned());
        }
        if self.fault.is_of_commands_only() && self.route.starts_with("GET") {
            return Err("a GET stores nothing: this fault is for POST".to_owned());
        }
        Ok(())
    }

    fn is_about(&self, asked: &Asked<'_>) -> bool {
        let route = asked.route;
        let is_route = match self.route.as_str() {
            "*" => route != WEBHOOKS,
            group if is_group(group) => route.starts_with(group.trim_end_matches('*')),
            one => one == route,
        };
        let is_possible = !self.fault.is_of_commands_only() || route.starts_with("POST");
        is_route && is_possible && self.amount.is_none_or(|wanted| asked.named == Some(wanted))
    }
}

fn is_group(route: &str) -> bool {
    matches!(route, "*" | "POST *" | "GET *")
}

/// A sequence of random numbers that is the same in every build: SplitMix64.
#[derive(Debug)]
struct Luck(u64);

impl Luck {
    /// The next number, from 0 up to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(orders: &[&str]) -> Rules {
        let mut rules = Rules::new(1);
        for order in orders {
            let order = serde_json::from_str(order).expect("an order");
            rules.add(order).expect("a good order");
        }
        rules
    }

    fn asked(route: &str, amount: Option<i64>) -> Asked<'_> {
        Asked {
            route,
            kind: route,
            named: amount,
            amount,
        }
    }

    fn struck(rules: &mut Rules, times: usize) -> Vec<bool> {
        (0..times)
            .map(|_| !rules.strike(asked("POST /v1/refunds", None)).is_empty())
            .collect()
    }

    #[test]
    fn luck_by_amount_does_not_hang_on_the_order_of_requests() {
        let order = r#"{"route":"POST *","fault":"answer_lost","probability":0.3,"seed":7,"by":"amount"}"#;
        let routes = ["POST /v1/payment_intents", "POST /v1/refunds"];
        let all: Vec<(i64, &str)> = (1..=300)
            .flat_map(|amount| routes.map(|route| (amount, route)))
            .collect();
        // Twice each, since a request that goes wrong is sent again.
        let run = |requests: &mut dyn Iterator<Item = &(i64, &'static str)>| {
            let mut rules = rules(&[order]);
            let mut struck: Vec<(i64, &str, [bool; 2])> = requests
                .map(|(amount, route)| {
                    let twice = [(); 2].map(|()| !rules.strike(asked(route, Some(*amount))).is_empty());
                    (*amount, *route, twice)
                })
                .collect();
            struck.sort_unstable();
            struck
        };
        let forth = run(&mut all.iter());
        assert_eq!(forth, run(&mut all.iter().rev()));
        let share = |which: &dyn Fn(&[bool; 2]) -> bool| forth.iter().filter(|(_, _, twice)| which(twice)).count();
        assert!(
            (120..240).contains(&share(&|twice| twice[0])),
            "{} of 600 at 0.3",
            share(&|twice| twice[0])
        );
        assert!(
            (20..90).contains(&share(&|twice| twice[0] && twice[1])),
            "a second try has luck of its own"
        );
    }

    #[test]
    fn a_seed_repeats_the_run_and_another_one_does_not() {
        let order =
            |seed: u64| format!(r#"{{"route":"POST *","fault":"answer_lost","probability":0.3,"seed":{seed}}}"#);
        let run = |seed| struck(&mut rules(&[&order(seed)]), 500);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let share = run(7).iter().filter(|is_struck| **is_struck).count();
        assert!((100..200).contains(&share), "{share} of 500 at 0.3");
    }

    #[test]
    fn the_nth_request_alone_can_be_struck() {
        let mut rules = rules(&[r#"{"route":"POST /v1/refunds","fault":"reset","skip":2,"count":1}"#]);
        assert_eq!(struck(&mut rules, 5), [false, false, true, false, false]);
    }

    #[test]
    fn delays_add_up_and_of_the_rest_the_first_strikes() {
        let mut rules = rules(&[
            r#"{"route":"*","fault":"delay_before","delay_ms":5}"#,
            r#"{"route":"*","fault":"reset"}"#,
            r#"{"route":"*","fault":"answer_lost"}"#,
            r#"{"route":"*","fault":"delay_after","delay_ms":5,"amount":7}"#,
        ]);
        let mut kinds = |amount| -> Vec<Kind> {
            let struck = rules.strike(asked("POST /v1/refunds", amount));
            struck.iter().map(|strike| strike.order.fault).collect()
        };
        assert_eq!(kinds(Some(7)), [Kind::DelayBefore, Kind::Reset, Kind::DelayAfter]);
        assert_eq!(kinds(None), [Kind::DelayBefore, Kind::Reset]);
        assert!(rules.strike(asked(WEBHOOKS, None)).is_empty());
    }

    #[test]
    fn an_order_that_makes_no_sense_is_refused() {
        for order in [
            r#"{"route":"POST /v1/nothing","fault":"reset"}"#,
            r#"{"route":"*","fault":"duplicate"}"#,
            r#"{"route":"webhooks","fault":"reset"}"#,
            r#"{"route":"*","fault":"delay_after"}"#,
            r#"{"route":"*","fault":"reset","probability":1.5}"#,
            r#"{"route":"*","fault":"reset","probability":0}"#,
            r#"{"route":"GET /v1/charges","fault":"error_stored"}"#,
            r#"{"route":"*","fault":"delay_after","delay_ms":999999999}"#,
        ] {
            let order: Order = serde_json::from_str(order).expect("the form of an order");
            assert!(order.check().is_err(), "{order:?}");
        }
        assert!(serde_json::from_str::<Order>(r#"{"route":"*","fault":"reset","chance":1}"#).is_err());
    }

    #[test]
    fn the_help_names_every_fault() {
        let kinds = [
            "delay_before",
            "delay_after",
            "answer_lost",
            "reset",
            "error_stored",
            "error_stored_after",
            "unavailable",
            "rate_limit",
            "lock_timeout",
            "conflict",
            "wrong_json",
            "crash",
            "duplicate",
            "late",
            "reorder",
            "lost",
        ];
        for kind in kinds {
            assert!(serde_json::from_value::<Kind>(kind.into()).is_ok(), "{kind}");
            assert!(ORDERED_FAULTS.contains(kind), "{kind}");
        }
    }
}
