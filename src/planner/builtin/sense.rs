//! The meanings that words of any language stand for.

use serde::Deserialize;
use std::sync::Arc;

/// What a word or phrase can mean.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub(super) enum Sense {
    Verb(Act),
    Direction(Direction),
    Role(Role),
    Field(Field),
    Unit(Unit),
    Number(f64),
    Multiplier(f64),
    Fraction(f64),
    Environment(Environment),
    Quantifier(Quantifier),
    Pronoun(Pronoun),
    Connector(Connector),
    Kind(Kind),
    State(State),
    ServiceType(ServiceType),
    Noun,
    Filler,
    Negation,
    Condition,
    Vague,
    FollowUp,
    /// Something that cannot be done yet, by its place in the language's list.
    Missing(usize),
}

/// A word for a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// As tools take it.
    pub word: Arc<str>,
    /// Whether the word used was a plural.
    pub plural: bool,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs)]
        pub(super) enum $name { $($variant),* }

        #[cfg(test)]
        #[allow(dead_code)]
        impl $name {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub(super) const COUNT: usize = Self::ALL.len();
        }
    };
}

words!(
    /// What can be asked for.
    Act {
        Scale, ScaleUp, ScaleDown, Double, Triple, Halve, Deploy, Run, Create, Make, Set, Update, Roll, RollOut, Give,
        Restart, Undo, Expose, Delete, Show, List, Describe, Ask, Wait, Diagnose, Monitor, Optimize,
    }
);
words!(
    /// A particle that turns a verb: scale *up*, roll *back*, make reachable from *outside*.
    Direction { Up, Down, Back, Out, Outside }
);
words!(
    /// What a phrase is to its clause.
    Role { In, On, From, To, By, Factor, Of, With, As, Called, Until }
);
words!(
    /// Something that has a value; `Request` and `Limit` alone are those of the resource named before.
    Field {
        Replicas, Image, Tag, Container, Port, TargetPort, Cpu, CpuRequest, CpuLimit, Memory, MemoryRequest, MemoryLimit,
        Request, Limit, Env, Data, Label, Revision, Name, Environment, Timeout,
    }
);
words!(
    /// A unit after a number; `Long` is every unit of time from a day.
    Unit {
        Percent, Times, Seconds, Minutes, Hours, Long, Mebibytes, Gibibytes, Megabytes, Gigabytes, Millicores,
    }
);
words!(
    /// An environment.
    Environment { Production, Staging, Development, Test }
);
words!(
    /// How much of it.
    Quantifier { All, Everything, Everywhere }
);
words!(
    /// A word that points back: to an object or to a place.
    Pronoun { It, There }
);
words!(
    /// A word between clauses or names.
    Connector { And, Then }
);
words!(
    /// A state to wait for.
    State { Ready, Absent, Complete, Running }
);

/// The type of a service.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub(super) enum ServiceType {
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// As the API spells it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl Environment {
    /// As tools take it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Staging => "staging",
            Self::Development => "development",
            Self::Test => "test",
        }
    }
}

impl Field {
    /// The field that stands for it and those like it.
    pub(super) const fn family(self) -> Self {
        match self {
            Self::Tag => Self::Image,
            Self::TargetPort => Self::Port,
            Self::CpuRequest | Self::CpuLimit | Self::Memory | Self::MemoryRequest | Self::MemoryLimit => Self::Cpu,
            Self::Data => Self::Env,
            other => other,
        }
    }

    /// Whether it is about memory.
    pub(super) const fn is_memory(self) -> bool {
        matches!(self, Self::Memory | Self::MemoryRequest | Self::MemoryLimit)
    }
}

impl Unit {
    /// What is written behind the number: as in a Kubernetes quantity or duration.
    pub(super) const fn suffix(self) -> Option<&'static str> {
        Some(match self {
            Self::Seconds => "s",
            Self::Minutes | Self::Millicores => "m",
            Self::Hours => "h",
            Self::Mebibytes => "Mi",
            Self::Gibibytes => "Gi",
            Self::Megabytes => "M",
            Self::Gigabytes => "G",
            Self::Percent | Self::Times | Self::Long => return None,
        })
    }

    /// Whether it measures time.
    pub(super) const fn is_time(self) -> bool {
        matches!(self, Self::Seconds | Self::Minutes | Self::Hours | Self::Long)
    }

    /// Whether it measures memory.
    pub(super) const fn is_memory(self) -> bool {
        matches!(self, Self::Mebibytes | Self::Gibibytes | Self::Megabytes | Self::Gigabytes)
    }
}
