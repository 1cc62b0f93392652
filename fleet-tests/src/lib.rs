//! The whole fleet with real processes: its tests are in `tests/it`, and `chaos.sh` kills parts of a running one.
