//! The options of `theater images`.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::service::Service;

/// Which images are built, and how.
#[derive(Args, Clone, Debug)]
pub struct ImageOptions {
    /// The programs; without any, all six: the five services and this launcher
    #[arg(value_enum)]
    programs: Vec<Program>,

    /// The beginning of the images' names, such as registry.example/theater
    #[arg(long, value_name = "NAME", default_value = "theater")]
    pub repository: String,

    /// The images' tag
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    pub tag: String,

    /// cargo's profile
    #[arg(long, default_value = "release")]
    pub profile: String,

    /// Build with TLS to Kafka: needs OpenSSL's headers
    #[arg(long)]
    pub kafka_tls: bool,

    /// Take the programs from this folder instead of building them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["profile", "kafka_tls"])]
    pub binaries: Option<PathBuf>,
}

impl ImageOptions {
    pub fn programs(&self) -> Vec<Program> {
        if self.programs.is_empty() { Program::value_variants().to_vec() } else { self.programs.clone() }
    }
}

/// A program that has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Service(Service),
    Launcher,
}

impl Program {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service(service) => service.name(),
            Self::Launcher => "theater",
        }
    }
}

impl ValueEnum for Program {
    fn value_variants<'a>() -> &'a [Self] {
        const {
            &[
                Self::Service(Service::Reservation),
                Self::Service(Service::Movie),
                Self::Service(Service::Notification),
                Self::Service(Service::ReservationList),
                Self::Service(Service::Gateway),
                Self::Launcher,
            ]
        }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
