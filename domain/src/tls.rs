//! One TLS provider for the whole process.

/// Makes aws-lc the process's TLS provider, once; a second call changes nothing.
pub fn install() {
    // Refused only when a provider is there already, and the workspace has no other.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
