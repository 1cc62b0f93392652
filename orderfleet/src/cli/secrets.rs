//! `orderfleet secrets …`.

use clap::{Args, Subcommand};

use super::Output;

/// `secrets [list|reseal|new-key]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Webhook secrets lie in the database sealed with a master key, which comes from ORDERFLEET_MASTER_KEY (or the file\n\
        that ORDERFLEET_MASTER_KEY_FILE names): 32 bytes in base64, or several with commas. The first seals, all open.\n\n\
        To replace a master key without a gap:\n  \
        1. NEW=$(orderfleet secrets new-key), and give every process \"OLD,$NEW\": each can open with both\n  \
        2. give every process \"$NEW,OLD\": the new one seals\n  \
        3. orderfleet secrets reseal\n  \
        4. give every process \"$NEW\" alone, once `orderfleet secrets` shows nothing of the old one\n\n\
        If a master key is lost, so are the secrets sealed with it. Make new ones, and tell whoever verifies or signs with them:\n  \
        orderfleet webhooks rotate ID --overlap-hours 0\n  \
        orderfleet partners rotate NAME --overlap-hours 0"
)]
pub struct Secrets {
    #[command(subcommand)]
    pub action: Option<SecretsAction>,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done about secrets.
#[derive(Debug, Subcommand)]
pub enum SecretsAction {
    /// List the master keys by name, with how many secrets each seals; exit 1 when one is missing (the default)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Seal everything with the first master key, in short steps beside a running fleet; repeat it as you like
    Reseal {
        /// Rows in one step, each a transaction
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
        step: i64,
    },
    /// Print a new master key; keep it apart from the database and its backups
    NewKey,
}
