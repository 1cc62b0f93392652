//! How a plan was found, so that it can be found again: the same problem and the same recipe give the same solution, byte
//! for byte, on every machine, whether the search used its budget up, was cut short, or went on where another had ended.
//!
//! So the temperature follows from the rounds made, never from a clock. A search that is cut short cools as if it were to
//! go on, and one that goes on begins where the other had cooled down to.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::problem::{Problem, Solution};
use super::solver::{self, Budget, Control, Progress, Routes};

/// What a search is given besides its problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Where the random numbers start.
    pub seed: u64,
    /// How many rounds the whole search is to make.
    pub iterations: u64,
    /// How many of them another attempt has made: the first that are not made again.
    pub before: u64,
    /// The routes it starts from.
    pub start: Routes,
}

/// A solution, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How.
    pub recipe: Recipe,
    /// What.
    pub solution: Solution,
}

/// Searches by a recipe. `control` sees the rounds of the whole search.
pub fn search(problem: &Problem, recipe: Recipe, control: &dyn Control) -> Found {
    let budget = Budget {
        iterations: recipe.iterations.saturating_sub(recipe.before),
        seed: recipe.seed,
    };
    let whole = Whole {
        control,
        before: recipe.before,
        iterations: recipe.iterations,
        made: AtomicU64::new(recipe.before),
    };
    let solution = solver::solve_from(problem, &recipe.start, &budget, &whole);
    Found { recipe, solution }
}

/// Searches by a recipe once more, as far as it was followed the first time: so many rounds.
pub fn search_again(problem: &Problem, recipe: Recipe, iterations: u64) -> Found {
    let until = recipe.before + iterations;
    search(problem, recipe, &Until(until))
}

/// Counts the rounds of the whole search, and cools by them.
struct Whole<'a> {
    control: &'a dyn Control,
    before: u64,
    iterations: u64,
    made: AtomicU64,
}

impl Whole<'_> {
    fn of_all(&self, progress: &Progress) -> Progress {
        Progress {
            iterations: self.before + progress.iterations,
            ..*progress
        }
    }
}

impl Control for Whole<'_> {
    fn tick(&self, progress: &Progress) -> ControlFlow<()> {
        let progress = self.of_all(progress);
        self.made.store(progress.iterations, Ordering::Relaxed);
        self.control.tick(&progress)
    }

    fn share_q32(&self) -> Option<u64> {
        let made = u128::from(self.made.load(Ordering::Relaxed));
        Some(((made << 32) / u128::from(self.iterations.max(1))) as u64)
    }

    fn wants_best(&self) -> bool {
        self.control.wants_best()
    }

    fn best(&self, progress: &Progress, routes: Routes) {
        self.control.best(&self.of_all(progress), routes);
    }
}

struct Until(u64);

impl Control for Until {
    fn tick(&self, progress: &Progress) -> ControlFlow<()> {
        match progress.iterations < self.0 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
