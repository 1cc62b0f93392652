//! Random numbers that are the same everywhere for ever.

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to one less than the bound, which is above zero.
    #[inline]
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// About -log2(number / 2³²), in 1/65536.
#[inline]
pub(super) fn minus_log2_q16(number: u32) -> i64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    let mantissa = i64::from(number << zeros);
    (i64::from(zeros) << 16) + (((1_i64 << 32) - mantissa) >> 15)
}
