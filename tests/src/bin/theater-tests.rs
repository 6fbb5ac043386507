//! `theater-tests`: tests of any duration, and the load generator. Other tests start it as the processes that they kill.

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
    /// Runs schedules of the simulation on all cores; prints the history of a failing one, and exits with 1
    Simulate(simulation::runner::Options),
    /// Explores every state of small cases; prints the shortest path to a wrong one, and exits with 1
    Model(model::runner::Options),
    /// Applies deliberately wrong changes to the services, one at a time, and prints the test that fails on each
    Mutants(mutants::Options),
    /// Calls a running theater as customers and a vendor; exits with 1 if a call fails or the ledger doesn't balance
    Load(load::Options),
    /// Deploys the theater on Kubernetes, and scales, updates and drains it under load
    Cluster(cluster::Options),
    /// Downloads an export from replicas of reservation-list
    #[command(hide = true)]
    Exports(cluster::exports::Options),
    /// Runs one of the services
    #[command(hide = true, disable_help_flag = true)]
    Fleet {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Runs a mail server
    #[command(hide = true)]
    Mail(mail::server::Options),
}

fn main() -> ExitCode {
    supervise::child_entry();
    let result = match Cli::parse().command {
        Command::Simulate(options) => simulation::runner::main(&options),
        Command::Model(options) => model::runner::main(&options),
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
