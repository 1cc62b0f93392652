//! Secrets lie sealed in the database, and whoever has the master key signs with them.

use std::sync::Arc;

use domain::{
    Services,
    ids::EndpointId,
    keyring::{self, Keyring, Owner},
    partners,
    services::Settings,
    webhooks::{
        self, Sender,
        sign::{self, Signing},
        store::{NewEndpoint, Rotation},
    },
};
use queue::operate::{self, Target};
use secrecy::{ExposeSecret, SecretString};
use simulator::receiver;
use sqlx::AssertSqlSafe;

use crate::webhooks::hears;
use crate::world::{World, client};

impl World {
    /// From now on the processes have these master keys.
    fn hold(&mut self, keys: &[&SecretString]) {
        let keys: Vec<SecretString> = keys.iter().map(|key| (*key).clone()).collect();
        self.services = Arc::new(Services {
            gateway: client(&self.gateway.url()),
            sender: Sender::new(true).unwrap(),
            keyring: Keyring::new(&keys).unwrap(),
            settings: Settings::default(),
        });
    }

    async fn signed_with(&self, secret: &str) -> receiver::Running {
        let config = receiver::Config {
            port: 0,
            log: self.dir.path().join(format!("{}.jsonl", uuid::Uuid::now_v7())),
            secrets: vec![secret.to_owned()],
        };
        receiver::start(config).await.unwrap()
    }

    /// Seals all there is, row by row.
    async fn reseal(&self) -> u64 {
        let mut conn = self.db.pool.acquire().await.unwrap();
        let keyring = &self.services.keyring;
        let (mut sealed, mut endpoint, mut partner) = (0, None, None);
        loop {
            let (last, count) = webhooks::store::reseal(&mut conn, keyring, endpoint, 1).await.unwrap();
            sealed += count;
            match last {
                Some(_) => endpoint = last,
                None => break,
            }
        }
        loop {
            let (last, count) = partners::store::reseal(&mut conn, keyring, partner, 1).await.unwrap();
            sealed += count;
            match last {
                Some(_) => partner = last,
                None => return sealed,
            }
        }
    }

    /// The names of the keys that seal something; "plain" for none.
    async fn keys_in_use(&self) -> Vec<String> {
        let uses = keyring::uses(&mut self.db.pool.acquire().await.unwrap()).await.unwrap();
        let name = |used: keyring::Use| used.key.unwrap_or_else(|| "plain".to_owned());
        uses.into_iter().map(name).collect()
    }

    /// Every row of every table, as text: what a backup shows.
    async fn dump(&self) -> String {
        let tables: Vec<String> = sqlx::query_scalar(
            "select format('%I.%I', table_schema, table_name) from information_schema.tables
             where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')",
        )
        .fetch_all(&self.db.pool)
        .await
        .unwrap();
        assert!(tables.len() > 40, "{tables:?}");
        let mut text = String::new();
        for table in tables {
            let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t")))
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
            text.extend(rows);
        }
        text
    }

    async fn store_plain(&self, id: EndpointId, secrets: &[String]) {
        sqlx::query("update webhook_endpoints set secrets = $2 where id = $1")
            .bind(id.0)
            .bind(secrets)
            .execute(&self.db.pool)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn no_table_shows_a_secret() {
    let world = World::new().await;
    let keyring = &world.services.keyring;
    let mut secrets = Vec::new();
    let (addr, heard) = hears().await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    for signing in [Signing::Hmac, Signing::Ed25519] {
        let new = NewEndpoint {
            url: format!("http://{addr}/"),
            event_types: vec!["order.created".to_owned()],
            signing,
            ..NewEndpoint::default()
        };
        let (endpoint, secret) = webhooks::store::create(&mut conn, keyring, new, true).await.unwrap();
        secrets.push(secret);
        for signing in [Signing::Ed25519, Signing::Hmac] {
            let rotation = Rotation {
                signing,
                ..Rotation::default()
            };
            let rotated = webhooks::store::rotate(&mut conn, keyring, endpoint.id, rotation).await;
            secrets.push(rotated.unwrap());
        }
        let (_, announced) = webhooks::store::test_fire(&mut conn, endpoint.id).await.unwrap();
        jobs::announce(&mut conn, announced).await.unwrap();
    }
    let partner = world.partner("acme").await;
    secrets.push(
        partners::store::rotate(&mut conn, keyring, partner, None)
            .await
            .unwrap(),
    );
    drop(conn);
    world.tell().await;
    assert_eq!(heard.lock().unwrap().len(), 4, "with every secret something was signed");

    let dump = world.dump().await;
    assert!(
        dump.contains("sealed:") && dump.contains("order.created"),
        "a dump that shows nothing proves nothing"
    );
    assert_eq!(secrets.len(), 7);
    for secret in secrets {
        let (_, encoded) = secret.split_once('_').unwrap();
        assert!(!dump.contains(encoded));
        // And not as bytes, which a dump shows in hexadecimal.
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(&hex));
    }
    assert!(!dump.contains("whsec_") && !dump.contains("whsk_"));
}

#[tokio::test]
async fn what_an_earlier_build_left_plain_signs_as_before_and_is_sealed_on_demand() {
    let world = World::new().await;
    let secret = sign::generate_secret();
    let receiver = world.signed_with(&secret).await;
    let id = world.endpoint(&receiver.url("a"), None).await;
    let pair = sign::generate(Signing::Ed25519);
    world.store_plain(id, &[secret.clone(), pair.clone()]).await;
    let partner = world.partner("acme").await;
    world
        .execute("update partners set inbound_secrets = array['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']")
        .await;
    assert_eq!(world.keys_in_use().await, ["plain"]);
    world.tell().await;

    assert_eq!(world.reseal().await, 3);
    assert_eq!(world.reseal().await, 0, "once is enough");
    let name = world.services.keyring.names().next().unwrap().to_owned();
    assert_eq!(world.keys_in_use().await, [name]);
    let mut conn = world.db.pool.acquire().await.unwrap();
    let endpoint = webhooks::store::get(&mut conn, id).await.unwrap().unwrap();
    assert_eq!(endpoint.public_keys, [sign::public_key(&pair).unwrap()]);
    assert_eq!(endpoint.version, 1, "nothing of it has changed");
    let stored: String = sqlx::query_scalar("select inbound_secrets[1] from partners")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    let opened = world.services.keyring.open(Owner::Partner(partner), &stored).unwrap();
    assert_eq!(opened, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    drop(conn);
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1", "delivered 1"]);
    assert!(receiver.log().unwrap().iter().all(|line| line["verified"] == true));
}

#[tokio::test]
async fn a_master_key_is_replaced_without_a_gap() {
    let mut world = World::new().await;
    let (old, new) = (keyring::new_key(), keyring::new_key());
    world.hold(&[&old]);
    let secret = sign::generate_secret();
    let receiver = world.signed_with(&secret).await;
    world.endpoint(&receiver.url("a"), Some(secret.clone())).await;
    world.partner("acme").await;
    world.tell().await;
    let before = world.keys_in_use().await;

    world.hold(&[&new, &old]);
    world.tell().await;
    assert_eq!(world.reseal().await, 2);
    world.hold(&[&new]);
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"; 3]);
    let after = world.keys_in_use().await;
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after);
    for key in [old, new] {
        assert!(!world.dump().await.contains(key.expose_secret()));
    }
}

#[tokio::test]
async fn without_the_key_nothing_is_sent_nothing_is_lost_and_it_is_said_why() {
    let mut world = World::new().await;
    let (key, other) = (keyring::new_key(), keyring::new_key());
    world.hold(&[&key]);
    let secret = sign::generate_secret();
    let receiver = world.signed_with(&secret).await;
    world.endpoint(&receiver.url("a"), Some(secret)).await;
    let name = world.services.keyring.names().next().unwrap().to_owned();

    world.hold(&[&other]);
    world.tell().await;
    assert_eq!(
        world.deliveries().await,
        ["pending 0"],
        "what cannot be signed is no try"
    );
    let why: String =
        sqlx::query_scalar("select reason from queue.pauses where target = 'kind' and name = 'deliver_webhook'")
            .fetch_one(&world.db.pool)
            .await
            .unwrap();
    assert!(why.contains(&name) && why.contains("ORDERFLEET_MASTER_KEY"), "{why}");

    world.hold(&[&other, &key]);
    let mut conn = world.db.pool.acquire().await.unwrap();
    operate::resume(&mut conn, Target::Kind, "deliver_webhook", "test", "the key is there")
        .await
        .unwrap();
    drop(conn);
    world.run_on(2, std::time::Duration::from_secs(60)).await;
    assert_eq!(world.deliveries().await, ["delivered 1"]);
}

#[tokio::test]
async fn a_lost_key_is_mended_by_new_secrets() {
    let mut world = World::new().await;
    let (lost, new) = (keyring::new_key(), keyring::new_key());
    world.hold(&[&lost]);
    let secret = sign::generate_secret();
    let receiver = world.signed_with(&secret).await;
    let id = world.endpoint(&receiver.url("a"), None).await;
    let partner = world.partner("acme").await;
    world.hold(&[&new]);
    assert_eq!(world.reseal().await, 0, "what does not open stays as it is");
    let mut conn = world.db.pool.acquire().await.unwrap();
    let rotation = Rotation {
        secret: Some(secret),
        overlap_hours: Some(0),
        ..Rotation::default()
    };
    let keyring = &world.services.keyring;
    webhooks::store::rotate(&mut conn, keyring, id, rotation).await.unwrap();
    partners::store::rotate(&mut conn, keyring, partner, Some(0))
        .await
        .unwrap();
    drop(conn);
    let name = keyring.names().next().unwrap().to_owned();
    assert_eq!(world.keys_in_use().await, [name]);
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"]);
}

#[tokio::test]
async fn a_secret_put_into_another_row_signs_nothing_there() {
    let world = World::new().await;
    let (one, other) = (sign::generate_secret(), sign::generate_secret());
    let (receiver, canary) = (world.signed_with(&one).await, hears().await);
    let id = world.endpoint(&receiver.url("a"), Some(one)).await;
    let thief = world.endpoint(&format!("http://{}/", canary.0), Some(other)).await;
    sqlx::query(
        "update webhook_endpoints set secrets = (select secrets from webhook_endpoints where id = $1) where id = $2",
    )
    .bind(id.0)
    .bind(thief.0)
    .execute(&world.db.pool)
    .await
    .unwrap();
    world.tell().await;
    let mut ends = world.deliveries().await;
    ends.sort();
    assert_eq!(ends, ["dead 0 broken_secret", "delivered 1"]);
    assert!(canary.1.lock().unwrap().is_empty());
}
