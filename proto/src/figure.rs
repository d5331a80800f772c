//! What machines count, told in a form that metrics can be made of.

/// How a figure is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FigureKind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It is as it is now.
    Gauge,
}

/// One number and what it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Whose it is: first part of its name.
    pub group: &'static str,
    /// The rest of its name: lower case, with underscores; a unit is its last part.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// How to read it.
    pub kind: FigureKind,
    /// The number.
    pub value: u64,
}

impl Figure {
    /// How something is now.
    pub fn gauge(group: &'static str, name: &'static str, help: &'static str, value: u64) -> Figure {
        Figure { group, name, help, kind: FigureKind::Gauge, value }
    }
}

/// Defines a struct of counters, from their names and what they count.
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* $group:literal: $($(#[doc = $help:literal])+ $name:ident;)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)*
        }

        impl Counters {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// All of them, in the order in which they are defined.
            pub fn figures(&self) -> [$crate::figure::Figure; Counters::COUNT] {
                [$($crate::figure::Figure {
                    group: $group,
                    name: stringify!($name),
                    help: [$($help),+][0].trim_ascii(),
                    kind: $crate::figure::FigureKind::Counter,
                    value: self.$name,
                }),*]
            }
        }
    };
}
