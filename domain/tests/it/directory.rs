//! Customers and the catalogue.

use domain::{
    catalogue::{self, NewProduct},
    customers::{self, NewCustomer},
    money::Cents,
};
use testkit::Database;

fn a_buyer(email: &str) -> NewCustomer {
    NewCustomer {
        name: "Ada Buyer".to_owned(),
        email: email.to_owned(),
        ..NewCustomer::default()
    }
}

#[tokio::test]
async fn an_email_is_unique_whatever_its_case_until_its_customer_is_deleted() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let ada = customers::store::create(&mut conn, &a_buyer("ada@example.test"))
        .await
        .expect("a customer");
    let again = customers::store::create(&mut conn, &a_buyer("ADA@example.test")).await;
    assert!(matches!(again, Err(customers::Error::EmailTaken)));
    customers::store::delete(&mut conn, ada.id, None)
        .await
        .expect("a deletion");
    customers::store::create(&mut conn, &a_buyer("ADA@example.test"))
        .await
        .expect("the e-mail is free");
    let listed = customers::store::list(&mut conn, Some("ada@"), None, 10)
        .await
        .expect("a list");
    assert_eq!(listed.len(), 1);
    assert!(matches!(
        customers::store::delete(&mut conn, ada.id, None).await,
        Err(customers::Error::NotFound)
    ));
}

#[tokio::test]
async fn a_patch_changes_what_it_names_unless_somebody_was_faster() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let ada = customers::store::create(&mut conn, &a_buyer("ada@example.test"))
        .await
        .expect("a customer");
    let patch = customers::Patch {
        name: Some("Ada B.".to_owned()),
        position: Some(Some((51.5, -0.1))),
        ..customers::Patch::default()
    };
    let patched = customers::store::update(&mut conn, ada.id, &patch, Some(1))
        .await
        .expect("a patch");
    assert_eq!(
        (patched.name.as_str(), patched.email.as_str(), patched.version),
        ("Ada B.", "ada@example.test", 2)
    );
    assert_eq!((patched.lat, patched.lon), (Some(51.5), Some(-0.1)));
    let stale = customers::store::update(&mut conn, ada.id, &patch, Some(1)).await;
    assert!(matches!(stale, Err(customers::Error::VersionChanged { current: 2 })));
}

#[tokio::test]
async fn a_retired_product_is_hidden_from_lists_and_kept() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let new = |sku: &str| NewProduct {
        sku: sku.to_owned(),
        name: format!("The {sku}"),
        price: Cents(250),
        currency: "GBP".parse().expect("it is a currency"),
        weight_grams: None,
        volume_cm3: None,
        reorder_point: 0,
    };
    let tea = catalogue::store::create(&mut conn, &new("TEA"))
        .await
        .expect("a product");
    catalogue::store::create(&mut conn, &new("CUP"))
        .await
        .expect("a product");
    let again = catalogue::store::create(&mut conn, &new("TEA")).await;
    assert!(matches!(again, Err(catalogue::Error::SkuTaken)));

    catalogue::store::retire(&mut conn, tea.id, Some(tea.version))
        .await
        .expect("a retirement");
    let listed = catalogue::store::list(&mut conn, &catalogue::Filter::default(), None, 10)
        .await
        .expect("a list");
    assert_eq!(
        listed.iter().map(|product| product.sku.as_str()).collect::<Vec<_>>(),
        ["CUP"]
    );
    let all = catalogue::Filter {
        search: Some("the t".to_owned()),
        with_retired: true,
    };
    assert_eq!(
        catalogue::store::list(&mut conn, &all, None, 10)
            .await
            .expect("a list")
            .len(),
        1
    );
    assert!(
        catalogue::store::by_sku(&mut conn, "TEA")
            .await
            .expect("a query")
            .is_some()
    );
}
