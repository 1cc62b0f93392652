//! How hot simulated annealing is, and so how much worse a plan may get for a while.

use super::random::{Random, minus_log2_q16};

/// The temperature: from about the mean leg down to a thirtieth of that, by the share of the budget used, and in the last
/// tenth of the budget to a four hundredth. So cold hardly anything moves: it only settles what is there, and cooling to
/// that evenly spent half of the rounds on plans that stood still. Long tours are worth more than their legs say, since
/// opening or closing one changes many: there it starts at up to two legs.
pub(super) struct Cooling {
    /// In 1/1024 of the unit of cost.
    start_q10: i64,
    now_q10: i64,
}

impl Cooling {
    pub(super) fn new(cost: i64, stops: usize, tours: usize) -> Cooling {
        let length = (stops / tours.max(1)) as i64;
        let percent = (50 + 4 * length).clamp(60, 200);
        let start_q10 = (cost / stops.max(1) as i64).saturating_mul(1024) / 100 * percent;
        Cooling {
            start_q10,
            now_q10: start_q10,
        }
    }

    pub(super) fn set(&mut self, share_q32: u64) {
        // log2(30) octaves until here, and log2(400) until the end, in 1/65536.
        let (bend, until_bend, until_end) = ((1 << 32) / 10 * 9, 321_600_u128, 566_400_u128);
        let share = u128::from(share_q32.min(1 << 32));
        let octaves_q16 = match share.checked_sub(bend) {
            None => until_bend * share / bend,
            Some(past) => until_bend + (until_end - until_bend) * past / ((1 << 32) - bend),
        } as u64;
        // Within an octave a straight line is near enough.
        let (octave, rest) = (octaves_q16 >> 16, (octaves_q16 & 0xffff) as i64);
        self.now_q10 = (i128::from(self.start_q10 >> octave) * i128::from((2 << 16) - rest) / (2 << 16)) as i64;
    }

    /// By how much a solution may be worse now and still be accepted: the temperature times -ln of a random number.
    #[inline]
    pub(super) fn slack(&self, random: &mut Random) -> i64 {
        let minus_ln_q16 = minus_log2_q16(random.next() as u32) * 45_426 / 65_536;
        ((i128::from(self.now_q10) * i128::from(minus_ln_q16)) >> 26) as i64 + 1
    }
}

/// The share of a budget that is used, in 1/2³².
pub(super) fn share_q32(made: u64, budget: u64) -> u64 {
    ((u128::from(made) << 32) / u128::from(budget.max(1))) as u64
}
