//! What of a domain value callers see: exactly the fields named, described in the OpenAPI document by their comments.

/// Declares a view of a domain struct: `field: type as documented type`, each taken over as it is.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident of $domain:ty { $($(#[$field_doc:meta])* $field:ident: $type:ty as $schema:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            $($(#[$field_doc])* #[schema(value_type = $schema)] pub(crate) $field: $type,)*
        }

        impl From<$domain> for $name {
            fn from(value: $domain) -> $name {
                $name { $($field: value.$field,)* }
            }
        }
    };
}

pub(crate) use view;
