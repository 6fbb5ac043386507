//! `theater-tests`: the tests that run for as long as one likes, and the load generator. Other tests start it too, as the
//! processes that they kill.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use theater_infra::supervise;
use theater_tests::{cluster, fleet, load, mail, model, mutants, simulation};

/// Runs the long tests of the theater: simulation, model check, mutants, load, a cluster
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays schedules of the simulation on all cores; a failing one is shown as a history, and exits with 1
    Simulate(simulation::run::Options),
    /// Explores every state of small cases; a way to one that is wrong is shown, and exits with 1
    Model(model::run::Options),
    /// Applies deliberately wrong versions of the services, one at a time, and says which test notices each
    Mutants(mutants::Options),
    /// Is customers and a vendor at a theater that runs somewhere; a failed call or wrong books exit with 1
    Load(load::Options),
    /// Deploys the theater on a Kubernetes, and has it scaled, rolled and drained under load
    Cluster(cluster::Options),
    /// Asks replicas of reservation-list for an export
    #[command(hide = true)]
    Exports(cluster::exports::Options),
    /// Is one of the services
    #[command(hide = true, disable_help_flag = true)]
    Fleet {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Is a mail server
    #[command(hide = true)]
    Mail(mail::server::Options),
}

fn main() -> ExitCode {
    supervise::child_entry();
    let result = match Cli::parse().command {
        Command::Simulate(options) => simulation::run::main(&options),
        Command::Model(options) => model::run::main(&options),
        Command::Mutants(options) => mutants::main(&options),
        Command::Load(options) => load::main(&options),
        Command::Exports(options) => cluster::exports::main(&options),
        Command::Cluster(options) => cluster::main(&options),
        Command::Fleet { args } => return fleet::service::main(args),
        Command::Mail(options) => mail::server::main(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("theater-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}
