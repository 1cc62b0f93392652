//! The order's state machine, as tables. Pure: `store::change` asks it and writes.
//!
//! ```text
//! order       pending → reserved → confirmed → closed
//!               │          │           └→ cancelling → cancelled
//!               ├→ rejected(reason)    reserved → expired | cancelled
//! payment     none → authorizing → authorized → capturing → captured → refunding → refunded
//!                        └ declined        └ voiding → voided        any *-ing ↔ unknown
//! fulfilment  none → partial → shipped → delivered → (partial_)returned
//! ```
//!
//! An order that needs a person is `on_hold`, from wherever it was; it remembers that place, and from there on may do
//! whatever it might have done from it, or go back to it. The gateway's truth may be ahead of us, so the money may skip
//! the *-ing steps; it never goes back from captured.

use serde::{Deserialize, Serialize};

macro_rules! axis {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(rename_all = "snake_case")]
        #[sqlx(type_name = "text", rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All there are.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// As rows and messages spell it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                $name::ALL.iter().copied().find(|one| one.as_str() == text).ok_or_else(|| {
                    let all: Vec<_> = $name::ALL.iter().map(|one| one.as_str()).collect();
                    format!("one of {}", all.join(", "))
                })
            }
        }
    };
}

axis! {
    /// How far an order is.
    Status {
        /// Accepted; stock is being looked for.
        Pending = "pending",
        /// Stock is held until it expires.
        Reserved = "reserved",
        /// The payment is authorized.
        Confirmed = "confirmed",
        /// Everything has left.
        Closed = "closed",
        /// Refused: out of stock, or the payment was declined.
        Rejected = "rejected",
        /// Nobody confirmed it in time.
        Expired = "expired",
        /// Being cancelled: money and stock are on their way back.
        Cancelling = "cancelling",
        /// Cancelled: no money and no stock is held for it.
        Cancelled = "cancelled",
        /// A person must look.
        OnHold = "on_hold",
    }
}

axis! {
    /// Where an order's money is.
    PaymentStatus {
        /// Not asked for.
        None = "none",
        /// Being asked for.
        Authorizing = "authorizing",
        /// Promised.
        Authorized = "authorized",
        /// Refused.
        Declined = "declined",
        /// Being taken.
        Capturing = "capturing",
        /// Taken.
        Captured = "captured",
        /// The promise is being given back.
        Voiding = "voiding",
        /// The promise was given back.
        Voided = "voided",
        /// Being paid back.
        Refunding = "refunding",
        /// Paid back.
        Refunded = "refunded",
        /// The gateway's answer was lost; being looked up.
        Unknown = "unknown",
    }
}

axis! {
    /// Where an order's goods are.
    FulfilmentStatus {
        /// Nothing has left.
        None = "none",
        /// Something has left.
        Partial = "partial",
        /// Everything has left.
        Shipped = "shipped",
        /// Everything has arrived.
        Delivered = "delivered",
        /// Some came back.
        PartialReturned = "partial_returned",
        /// All came back.
        Returned = "returned",
    }
}

/// A change the state machine has no edge for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{axis} cannot go from {from} to {to}")]
pub struct Illegal {
    /// Which axis.
    pub axis: &'static str,
    /// From where.
    pub from: &'static str,
    /// To where.
    pub to: &'static str,
}

impl Status {
    /// Where it may go from here. What is held may go on from where it was held.
    pub fn next(self, held_from: Option<Status>) -> &'static [Status] {
        use Status::*;
        match self {
            Pending => &[Reserved, Rejected, Cancelling, Cancelled, OnHold],
            Reserved => &[Confirmed, Rejected, Expired, Cancelling, Cancelled, OnHold],
            Confirmed => &[Closed, Cancelling, OnHold],
            Cancelling => &[Cancelled, OnHold],
            OnHold => match held_from {
                Some(Pending) => &[Pending, Reserved, Rejected, Cancelling, Cancelled],
                Some(Reserved) => &[Reserved, Confirmed, Rejected, Expired, Cancelling, Cancelled],
                Some(Confirmed) => &[Confirmed, Closed, Cancelling],
                Some(Cancelling) => &[Cancelling, Cancelled],
                Some(Closed) => &[Closed],
                _ => &[],
            },
            Closed => &[OnHold],
            Rejected | Expired | Cancelled => &[],
        }
    }

    /// The order has ended.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Status::Closed | Status::Rejected | Status::Expired | Status::Cancelled
        )
    }
}

impl PaymentStatus {
    /// Where it may go from here.
    pub fn next(self) -> &'static [PaymentStatus] {
        use PaymentStatus::*;
        match self {
            None => &[Authorizing],
            Authorizing => &[Authorized, Declined, Voiding, Voided, Captured, Refunding, Unknown],
            // Back to authorizing: the hold ran out before the capture, and is asked for once more.
            Authorized => &[Capturing, Captured, Authorizing, Voiding, Voided, Refunding, Unknown],
            Capturing => &[Captured, Authorized, Authorizing, Voiding, Voided, Refunding, Unknown],
            Captured => &[Refunding, Refunded],
            Voiding => &[Voided, Captured, Refunding, Unknown],
            Refunding => &[Refunded, Captured, Unknown],
            Unknown => &[
                Authorizing,
                Authorized,
                Declined,
                Capturing,
                Captured,
                Voiding,
                Voided,
                Refunding,
                Refunded,
            ],
            Declined | Voided | Refunded => &[],
        }
    }

    /// No money of the customer's is held or being moved.
    pub fn is_settled(self) -> bool {
        use PaymentStatus::*;
        matches!(self, None | Declined | Voided | Refunded)
    }
}

impl FulfilmentStatus {
    /// Where it may go from here.
    pub fn next(self) -> &'static [FulfilmentStatus] {
        use FulfilmentStatus::*;
        match self {
            None => &[Partial, Shipped],
            Partial => &[Shipped],
            Shipped => &[Delivered, PartialReturned, Returned],
            Delivered => &[PartialReturned, Returned],
            PartialReturned => &[Returned],
            Returned => &[],
        }
    }
}

/// Where an order is on all three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axes {
    /// The order's.
    pub status: Status,
    /// The money's.
    pub payment: PaymentStatus,
    /// The goods'.
    pub fulfilment: FulfilmentStatus,
}

/// Whether an order may go from one place to another: an edge on each axis that moves, and the axes fit each other.
pub fn check(from: Axes, held_from: Option<Status>, to: Axes) -> Result<(), Illegal> {
    let is_status_kept = from.status == to.status;
    if !is_status_kept && !from.status.next(held_from).contains(&to.status) {
        return Err(Illegal {
            axis: "the order",
            from: from.status.as_str(),
            to: to.status.as_str(),
        });
    }
    if from.payment != to.payment && !from.payment.next().contains(&to.payment) {
        return Err(Illegal {
            axis: "the payment",
            from: from.payment.as_str(),
            to: to.payment.as_str(),
        });
    }
    let is_fulfilment_kept = from.fulfilment == to.fulfilment;
    if !is_fulfilment_kept && !from.fulfilment.next().contains(&to.fulfilment) {
        return Err(Illegal {
            axis: "the fulfilment",
            from: from.fulfilment.as_str(),
            to: to.fulfilment.as_str(),
        });
    }
    if !is_status_kept && !to.status.suits(from.status, to.payment, to.fulfilment) {
        return Err(Illegal {
            axis: "the order with its payment",
            from: to.payment.as_str(),
            to: to.status.as_str(),
        });
    }
    if !is_fulfilment_kept && !to.payment.is_taken() {
        return Err(Illegal {
            axis: "goods before money",
            from: to.payment.as_str(),
            to: to.fulfilment.as_str(),
        });
    }
    Ok(())
}

impl Status {
    /// Whether an order may enter this status with its money and goods where they are: an order that ended without
    /// being sent holds no money, a confirmed one has it promised or, after a hold, is asking once more; a closed one has left.
    fn suits(self, from: Status, payment: PaymentStatus, fulfilment: FulfilmentStatus) -> bool {
        match self {
            Status::Rejected | Status::Expired | Status::Cancelled => payment.is_settled(),
            Status::Confirmed if payment == PaymentStatus::Authorizing => from == Status::OnHold,
            Status::Confirmed => !payment.is_settled(),
            Status::Closed => !matches!(fulfilment, FulfilmentStatus::None | FulfilmentStatus::Partial),
            Status::Pending | Status::Reserved | Status::Cancelling | Status::OnHold => true,
        }
    }
}

impl PaymentStatus {
    /// The money was taken, whatever happened to it since.
    pub fn is_taken(self) -> bool {
        use PaymentStatus::*;
        matches!(self, Captured | Refunding | Refunded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The diagram, written a second time: `from > to to to`.
    const STATUS: &str = "
        pending > reserved rejected cancelling cancelled on_hold
        reserved > confirmed rejected expired cancelling cancelled on_hold
        confirmed > closed cancelling on_hold
        closed > on_hold
        rejected >
        expired >
        cancelling > cancelled on_hold
        cancelled >";
    const PAYMENT: &str = "
        none > authorizing
        authorizing > authorized declined voiding voided captured refunding unknown
        authorized > capturing captured authorizing voiding voided refunding unknown
        declined >
        capturing > captured authorized authorizing voiding voided refunding unknown
        captured > refunding refunded
        voiding > voided captured refunding unknown
        voided >
        refunding > refunded captured unknown
        refunded >
        unknown > authorizing authorized declined capturing captured voiding voided refunding refunded";
    const FULFILMENT: &str = "
        none > partial shipped
        partial > shipped
        shipped > delivered partial_returned returned
        delivered > partial_returned returned
        partial_returned > returned
        returned >";

    fn edges(diagram: &str) -> Vec<(&str, &str)> {
        let lines = diagram.lines().filter_map(|line| line.split_once('>'));
        lines
            .flat_map(|(from, to)| to.split_whitespace().map(move |to| (from.trim(), to)))
            .collect()
    }

    #[test]
    fn the_axis_of_the_order_has_these_edges_and_no_others() {
        let allowed = edges(STATUS);
        for from in Status::ALL.iter().filter(|from| **from != Status::OnHold) {
            for to in Status::ALL {
                let expected = allowed.contains(&(from.as_str(), to.as_str()));
                assert_eq!(from.next(None).contains(to), expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn the_axis_of_the_money_has_these_edges_and_no_others() {
        let allowed = edges(PAYMENT);
        for from in PaymentStatus::ALL {
            for to in PaymentStatus::ALL {
                let expected = allowed.contains(&(from.as_str(), to.as_str()));
                assert_eq!(from.next().contains(to), expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn the_axis_of_the_goods_has_these_edges_and_no_others() {
        let allowed = edges(FULFILMENT);
        for from in FulfilmentStatus::ALL {
            for to in FulfilmentStatus::ALL {
                let expected = allowed.contains(&(from.as_str(), to.as_str()));
                assert_eq!(from.next().contains(to), expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn what_is_held_goes_back_or_on_from_where_it_was_held_and_nowhere_else() {
        for before in Status::ALL {
            let can_be_held = before.next(None).contains(&Status::OnHold);
            for to in Status::ALL {
                let expected = can_be_held && *to != Status::OnHold && (to == before || before.next(None).contains(to));
                assert_eq!(
                    Status::OnHold.next(Some(*before)).contains(to),
                    expected,
                    "held from {before}, to {to}"
                );
            }
        }
    }

    #[test]
    fn an_order_ends_only_when_its_money_is_settled() {
        let at = |status, payment| Axes {
            status,
            payment,
            fulfilment: FulfilmentStatus::None,
        };
        for payment in PaymentStatus::ALL {
            let from = at(Status::Cancelling, *payment);
            let to = at(Status::Cancelled, *payment);
            assert_eq!(check(from, None, to).is_ok(), payment.is_settled(), "{payment}");
        }
    }

    #[test]
    fn goods_leave_only_after_the_money_was_taken() {
        let at = |fulfilment, payment| Axes {
            status: Status::Confirmed,
            payment,
            fulfilment,
        };
        for payment in PaymentStatus::ALL {
            let from = at(FulfilmentStatus::None, *payment);
            let to = at(FulfilmentStatus::Partial, *payment);
            assert_eq!(check(from, None, to).is_ok(), payment.is_taken(), "{payment}");
        }
    }

    #[test]
    fn an_order_is_confirmed_by_an_authorization_and_closed_by_leaving() {
        let at = |status, payment, fulfilment| Axes {
            status,
            payment,
            fulfilment,
        };
        let reserved = at(Status::Reserved, PaymentStatus::Authorizing, FulfilmentStatus::None);
        let confirmed = at(Status::Confirmed, PaymentStatus::Authorized, FulfilmentStatus::None);
        assert_eq!(check(reserved, None, confirmed), Ok(()));
        let too_early = at(Status::Confirmed, PaymentStatus::Authorizing, FulfilmentStatus::None);
        assert!(check(reserved, None, too_early).is_err());

        let captured = at(Status::Confirmed, PaymentStatus::Captured, FulfilmentStatus::Partial);
        assert!(
            check(
                captured,
                None,
                at(Status::Closed, PaymentStatus::Captured, FulfilmentStatus::Partial)
            )
            .is_err()
        );
        assert_eq!(
            check(
                captured,
                None,
                at(Status::Closed, PaymentStatus::Captured, FulfilmentStatus::Shipped)
            ),
            Ok(())
        );
    }

    #[test]
    fn every_name_reads_back() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
            assert_eq!(serde_json::to_value(status).expect("it is a name"), status.as_str());
        }
        for status in PaymentStatus::ALL {
            assert_eq!(serde_json::to_value(status).expect("it is a name"), status.as_str());
        }
        for status in FulfilmentStatus::ALL {
            assert_eq!(serde_json::to_value(status).expect("it is a name"), status.as_str());
        }
        assert!("lost".parse::<Status>().is_err());
    }
}
