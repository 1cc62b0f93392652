//! A database, a gateway and an order in it: what most tests here begin with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use domain::{
    Cause, Services,
    ids::{CustomerId, OrderId, PaymentId, ProductId, SellerId},
    orders::{self, NewLine, NewOrder, Order},
    payments::{self, Gateway, Payment, PaymentAttempt},
    sellers::{self, NewSeller},
    services::Settings,
    webhooks::Sender,
};
use jobs::intake;
use queue::{
    Job,
    operate::{self, Target},
    testing::{Ran, run_until_idle},
};
use secrecy::SecretString;
use serde_json::Value;
use simulator::gateway;
use testkit::Database;

pub(crate) const WINDOW: Duration = Duration::from_secs(600);

pub(crate) struct World {
    pub(crate) db: Database,
    pub(crate) gateway: gateway::Running,
    pub(crate) services: Arc<Services>,
    pub(crate) dir: tempfile::TempDir,
    customer: CustomerId,
}

impl World {
    pub(crate) async fn new() -> World {
        World::with_sender(Sender::with_timeout(true, Duration::from_secs(2)).unwrap()).await
    }

    pub(crate) async fn with_sender(sender: Sender) -> World {
        let db = Database::new().await;
        let dir = tempfile::tempdir().unwrap();
        let gateway = start_gateway(0, dir.path().join("ledger.jsonl")).await;
        let settings = Settings {
            cancel_window: WINDOW,
            ..Settings::default()
        };
        let services = Arc::new(Services {
            gateway: client(&gateway.url()),
            sender,
            keyring: domain::keyring::Keyring::random(),
            settings,
        });
        let mut conn = db.pool.acquire().await.unwrap();
        let customer = CustomerId(testkit::a_customer(&mut conn).await);
        testkit::a_product(&mut conn, "TEA", 1_000_000).await;
        queue::limit::install(&mut conn, &jobs::limits()).await.unwrap();
        drop(conn);
        World {
            db,
            gateway,
            services,
            dir,
            customer,
        }
    }

    /// A seller of all goods, who leaves us a tenth.
    pub(crate) async fn seller(&self) -> SellerId {
        let mut conn = self.db.pool.acquire().await.unwrap();
        let new = NewSeller {
            name: "Tea Garden".to_owned(),
            destination: "acct_tea".to_owned(),
            currency: "GBP".parse().unwrap(),
            commission_bp: 1_000,
            payout_min: None,
        };
        let seller = sellers::store::create(&mut conn, &new).await.unwrap().id;
        let products: Vec<uuid::Uuid> = sqlx::query_scalar("select id from products")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
        for product in products {
            sellers::store::set_product(&mut conn, ProductId(product), Some(seller))
                .await
                .unwrap();
        }
        seller
    }

    /// Runs what is due.
    pub(crate) async fn run(&self) -> Ran {
        run_until_idle(&self.db.pool, &jobs::catalogue(), &self.services)
            .await
            .unwrap()
    }

    /// Runs what is due, and what becomes due in the next steps of that length.
    pub(crate) async fn run_on(&self, steps: u32, step: Duration) {
        for _ in 0..steps {
            self.run().await;
            self.db.fast_forward(step).await;
        }
        self.run().await;
    }

    pub(crate) async fn submit(&self, payment_method: &str) -> OrderId {
        self.place(Some(payment_method.to_owned())).await
    }

    pub(crate) async fn submit_unconfirmed(&self) -> OrderId {
        self.place(None).await
    }

    async fn place(&self, confirm_with: Option<String>) -> OrderId {
        let order = NewOrder {
            customer_id: self.customer,
            reference: None,
            lines: vec![NewLine {
                sku: "TEA".to_owned(),
                qty: 2,
            }],
            confirm_with,
        };
        let mut tx = self.db.pool.begin().await.unwrap();
        let order = intake::submit(&mut tx, &order, &Cause::actor("test")).await.unwrap();
        tx.commit().await.unwrap();
        order.id
    }

    pub(crate) async fn cancel(&self, id: OrderId) -> Result<Order, intake::Error> {
        let mut tx = self.db.pool.begin().await.unwrap();
        let order = intake::cancel(&mut tx, id, "test", &self.services.settings, &Cause::actor("test")).await?;
        tx.commit().await.unwrap();
        Ok(order)
    }

    pub(crate) async fn order(&self, id: OrderId) -> Order {
        orders::store::get(&mut self.db.pool.acquire().await.unwrap(), id)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn payment(&self, order: OrderId) -> Payment {
        payments::store::of_order(&mut self.db.pool.acquire().await.unwrap(), order)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn attempts(&self, id: PaymentId) -> Vec<PaymentAttempt> {
        payments::store::attempts(&mut self.db.pool.acquire().await.unwrap(), id)
            .await
            .unwrap()
    }

    /// The three axes of an order, as one line.
    pub(crate) async fn axes(&self, id: OrderId) -> String {
        let order = self.order(id).await;
        format!("{} {} {}", order.status, order.payment_status, order.fulfilment_status)
    }

    /// What the gateway executed for an order: `op outcome`.
    pub(crate) fn ledger(&self, order: OrderId) -> Vec<String> {
        let order = order.to_string();
        let mine = |line: &Value| line["metadata"]["order_id"] == order.as_str();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.gateway
            .ledger()
            .unwrap()
            .iter()
            .filter(|line| mine(line))
            .map(|line| format!("{} {}", word(&line["op"]), word(&line["outcome"])))
            .collect()
    }

    pub(crate) async fn enqueue(&self, job: &impl Job) {
        queue::enqueue(&mut self.db.pool.acquire().await.unwrap(), job)
            .await
            .unwrap();
    }

    /// Lets no job of a kind run.
    pub(crate) async fn pause(&self, kind: &str) {
        let conn = &mut self.db.pool.acquire().await.unwrap();
        operate::pause(conn, Target::Kind, kind, "test", "test").await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.db.pool).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.db.pool).await.unwrap();
    }

    /// What must be true whenever nothing is due: no money in between, stock counted right, each key one attempt.
    pub(crate) async fn assert_settled(&self) {
        let unsettled = "select count(*) from payments p join orders o on o.id = p.order_id where o.status <> 'on_hold'
                         and p.state in ('authorizing', 'capturing', 'voiding', 'refunding', 'unknown')";
        assert_eq!(self.count(unsettled).await, 0, "payments in between");
        let stock = "select count(*) from (
                         select from stock_levels l
                         left join reservations r on r.product_id = l.product_id and r.warehouse_id = l.warehouse_id
                              and r.state in ('held', 'committed')
                         group by l.product_id, l.warehouse_id, l.reserved
                         having l.reserved <> coalesce(sum(r.qty), 0)) x";
        assert_eq!(
            self.count(stock).await,
            0,
            "levels that do not equal their reservations"
        );
        let keys: Vec<String> = sqlx::query_scalar("select idem_key from payment_attempts")
            .fetch_all(&self.db.pool)
            .await
            .unwrap();
        // Nobody asks for the end of an authorization, and transfers are of payouts.
        let is_asked = |line: &Value| !matches!(line["op"].as_str(), Some("expire" | "transfer"));
        for line in self.gateway.ledger().unwrap().into_iter().filter(is_asked) {
            let key = line["key"].as_str().unwrap_or_default();
            assert!(
                keys.iter().any(|ours| ours == key),
                "a ledger entry without an attempt: {line}"
            );
        }
    }
}

pub(crate) async fn start_gateway(port: u16, ledger: PathBuf) -> gateway::Running {
    gateway::start(gateway::Config { port, ledger, seed: 0 }).await.unwrap()
}

pub(crate) fn client(url: &str) -> Gateway {
    Gateway::new(url.parse().unwrap(), SecretString::from("sk_test_orderfleet")).unwrap()
}
