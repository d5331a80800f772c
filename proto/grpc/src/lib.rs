//! The gRPC interfaces, compiled from the `.proto` files beside this crate.

/// All interfaces, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The public interface of an API node.
#[allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments of the .proto file say what they have to"
)]
pub mod v1 {
    tonic::include_proto!("twofold.v1");
}

/// The management interface.
#[allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments of the .proto file say what they have to"
)]
pub mod management {
    tonic::include_proto!("twofold.management.v1");
}
