//! Typed ids. All are version 7 UUIDs: they sort by the time they were made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one, later than all before it.
            #[expect(clippy::new_without_default, reason = "an id is made on purpose, never by default")]
            pub fn new() -> $name {
                $name(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<$name, uuid::Error> {
                text.parse().map($name)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> $name {
                $name(id)
            }
        }
    )*};
}

ids! {
    /// Who buys.
    CustomerId
    /// What is sold.
    ProductId
    /// Where it lies.
    WarehouseId
    /// One order.
    OrderId
    /// One line of an order.
    OrderLineId
    /// A quantity of one line kept aside in one warehouse.
    ReservationId
    /// Somebody we exchange webhooks with.
    PartnerId
    /// One payment of an order.
    PaymentId
    /// One intent to call the gateway.
    AttemptId
    /// A partner's webhook endpoint.
    EndpointId
    /// One event for one endpoint.
    DeliveryId
    /// Something that happened.
    EventId
    /// What leaves one warehouse for one order.
    ShipmentId
    /// A van.
    VehicleId
    /// One version of a day's plan of one warehouse.
    PlanId
    /// One van's day.
    RouteId
    /// A key to the API.
    ApiKeyId
    /// Whose goods are sold.
    SellerId
    /// One payout to a seller.
    PayoutId
}
