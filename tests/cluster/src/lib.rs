//! Tests of real processes.
