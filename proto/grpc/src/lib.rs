//! The public gRPC interface, compiled from `twofold.proto`.
