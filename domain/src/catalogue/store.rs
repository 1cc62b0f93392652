//! The SQL of products and warehouses.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Error, Filter, NewProduct, NewWarehouse, Patch, Product, Warehouse};
use crate::ids::{ProductId, WarehouseId};

/// Rows as `Product`s: a statement that ends in this list of columns, or starts with it.
macro_rules! products {
    ($head:tt, $tail:tt $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Product,
            $head
                + r#" id as "id: _", sku, name, price_minor as "price: _", currency as "currency: _", weight_grams, volume_cm3,
                backorderable, reorder_point, version, created_at, updated_at, retired_at "#
                + $tail
            $(, $arg)*
        )
    };
}

/// Writes a product.
pub async fn create(conn: &mut PgConnection, new: &NewProduct) -> Result<Product, Error> {
    products!(
        "insert into products (id, sku, name, price_minor, currency, weight_grams, volume_cm3, reorder_point)
         values ($1, $2, $3, $4, $5, coalesce($6, 500), coalesce($7, 1000), $8)
         returning",
        "",
        ProductId::new().0,
        new.sku,
        new.name,
        new.price.0,
        new.currency.as_str(),
        new.weight_grams,
        new.volume_cm3,
        new.reorder_point,
    )
    .fetch_one(conn)
    .await
    .map_err(on_constraint)
}

/// The product, on sale or not.
pub async fn get(conn: &mut PgConnection, id: ProductId) -> Result<Option<Product>, sqlx::Error> {
    products!("select", "from products where id = $1", id.0)
        .fetch_optional(conn)
        .await
}

/// The product of that SKU, on sale or not.
pub async fn by_sku(conn: &mut PgConnection, sku: &str) -> Result<Option<Product>, sqlx::Error> {
    products!("select", "from products where sku = $1", sku)
        .fetch_optional(conn)
        .await
}

/// Changes what the patch names, if the product still has the version given. Orders keep their prices.
pub async fn update(
    conn: &mut PgConnection,
    id: ProductId,
    patch: &Patch,
    version: Option<i32>,
) -> Result<Product, Error> {
    let updated = products!(
        "update products
         set name = coalesce($3, name), price_minor = coalesce($4, price_minor), weight_grams = coalesce($5, weight_grams),
             volume_cm3 = coalesce($6, volume_cm3), reorder_point = coalesce($7, reorder_point),
             version = version + 1, updated_at = clock_timestamp()
         where id = $1 and retired_at is null and ($2::int is null or version = $2)
         returning",
        "",
        id.0,
        version,
        patch.name,
        patch.price.map(|price| price.0),
        patch.weight_grams,
        patch.volume_cm3,
        patch.reorder_point,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(on_constraint)?;
    match updated {
        Some(product) => Ok(product),
        None => Err(why_not(conn, id).await?),
    }
}

/// Takes a product off sale; orders that have it go on. A retired one stays retired.
pub async fn retire(conn: &mut PgConnection, id: ProductId, version: Option<i32>) -> Result<(), Error> {
    let retired = sqlx::query!(
        r#"
        update products
        set retired_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
        where id = $1 and retired_at is null and ($2::int is null or version = $2)
        "#,
        id.0,
        version,
    )
    .execute(&mut *conn)
    .await?;
    if retired.rows_affected() == 1 {
        Ok(())
    } else {
        Err(why_not(conn, id).await?)
    }
}

async fn why_not(conn: &mut PgConnection, id: ProductId) -> Result<Error, sqlx::Error> {
    Ok(match get(conn, id).await? {
        Some(product) if product.retired_at.is_none() => Error::VersionChanged {
            current: product.version,
        },
        _ => Error::NotFound,
    })
}

fn on_constraint(error: sqlx::Error) -> Error {
    let Some(refused) = error.as_database_error() else {
        return Error::Database(error);
    };
    match (refused.constraint(), refused.is_check_violation()) {
        (Some("products_sku_is_unique"), _) => Error::SkuTaken,
        (Some("warehouses_code_is_unique"), _) => Error::CodeTaken,
        (Some(rule), true) => Error::Refused(rule.to_owned()),
        _ => Error::Database(error),
    }
}

/// A page of products, newest first by (created_at, id), before the position given.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    before: Option<(DateTime<Utc>, ProductId)>,
    limit: i64,
) -> Result<Vec<Product>, sqlx::Error> {
    let (before_at, before_id) = before.map(|(at, id)| (at, id.0)).unzip();
    products!(
        "select",
        "from products
         where ($1 or retired_at is null)
           and ($2::text is null or strpos(lower(sku), lower($2)) > 0 or strpos(lower(name), lower($2)) > 0)
           and ($3::timestamptz is null or (created_at, id) < ($3, $4))
         order by created_at desc, id desc
         limit $5",
        filter.with_retired,
        filter.search,
        before_at,
        before_id as Option<Uuid>,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Writes a warehouse.
pub async fn create_warehouse(conn: &mut PgConnection, new: &NewWarehouse) -> Result<Warehouse, Error> {
    sqlx::query_as!(
        Warehouse,
        r#"
        insert into warehouses (id, code, name, lat, lon, priority, road_factor, speed_kmh)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        returning id as "id: _", code, name, lat, lon, priority, road_factor, speed_kmh, created_at
        "#,
        WarehouseId::new().0,
        new.code,
        new.name,
        new.lat,
        new.lon,
        new.priority,
        new.road_factor,
        new.speed_kmh,
    )
    .fetch_one(conn)
    .await
    .map_err(on_constraint)
}

/// Changes how roads are reckoned with at a warehouse: absent leaves a value, none takes it away. None when there is no
/// such warehouse.
pub async fn set_roads(
    conn: &mut PgConnection,
    id: WarehouseId,
    road_factor: Option<Option<f64>>,
    speed_kmh: Option<Option<f64>>,
) -> Result<Option<Warehouse>, Error> {
    sqlx::query_as!(
        Warehouse,
        r#"
        update warehouses
        set road_factor = case when $2 then $3 else road_factor end,
            speed_kmh = case when $4 then $5 else speed_kmh end
        where id = $1
        returning id as "id: _", code, name, lat, lon, priority, road_factor, speed_kmh, created_at
        "#,
        id.0,
        road_factor.is_some(),
        road_factor.flatten(),
        speed_kmh.is_some(),
        speed_kmh.flatten(),
    )
    .fetch_optional(conn)
    .await
    .map_err(on_constraint)
}

/// All warehouses, the first to be asked first: there are few.
pub async fn warehouses(conn: &mut PgConnection) -> Result<Vec<Warehouse>, sqlx::Error> {
    sqlx::query_as!(
        Warehouse,
        r#"select id as "id: _", code, name, lat, lon, priority, road_factor, speed_kmh, created_at from warehouses order by priority, code"#,
    )
    .fetch_all(conn)
    .await
}
