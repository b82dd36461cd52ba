//! One file per command; [`run`] is the list.

pub(crate) mod internal;

mod access;
mod account_clients;
mod agent;
mod apiserver;
mod backup;
mod completion;
mod controller_manager;
mod down;
mod image;
mod kubeconfig;
mod kubelet;
mod logs;
mod proxy;
mod scheduler;
mod server;
mod standalone;
mod status;
mod store;
mod token;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result};
use keelson_cluster::paths::Paths;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command, Global};

/// Runs the command to its end.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    start_logging(&cli)?;
    if let Command::Completion { shell } = cli.command {
        completion::print(shell);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, &args).await,
        Command::Down { purge } => down::run(global, purge).await,
        Command::Logs { component, follow } => logs::run(global, component.as_deref(), follow),
        Command::Kubeconfig { merge } => kubeconfig::run(global, merge),
        Command::Token { command } => token::run(global, command).await,
        Command::Status => return status::run(global).await,
        Command::Backup { file, force } => backup::run(global, file, force).await,
        Command::Restore {
            file,
            force,
            to,
            etcd,
        } => store::restore(global, file, force, to, &etcd).await,
        Command::Store { command } => store::run(global, command).await,
        Command::Image { command } => image::run(global, command).await,
        Command::Server(args) => server::run(global, &args).await,
        Command::Agent(args) => agent::run(global, args).await,
        Command::KubeApiserver(args) => apiserver::run(global, *args).await,
        Command::KubeScheduler(args) => scheduler::run(&args).await,
        Command::KubeControllerManager(args) => controller_manager::run(*args).await,
        Command::Kubelet(args) => kubelet::run(*args).await,
        Command::KubeProxy(args) => proxy::run(args).await,
        Command::Completion { .. } | Command::Internal { .. } => {
            unreachable!("invariant: these run without the async runtime")
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging(cli: &Cli) -> Result<()> {
    let quiet = !cli.command.is_daemon() && cli.global.log == "info";
    let filter = if quiet { "warn" } else { cli.global.log.as_str() };
    // The informers retry by themselves and say so when it matters.
    let filter = format!("kube_runtime=error,kube_client=error,{filter}");
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log is not a filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}

/// Cancelled at SIGINT or SIGTERM.
fn stop_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

/// A client with the administrator's rights on this machine's cluster.
async fn admin_client(global: &Global) -> Result<(Paths, Client)> {
    let paths = global.paths();
    let kubeconfig = paths.admin_kubeconfig();
    anyhow::ensure!(
        kubeconfig.exists(),
        "there is no cluster in {}; start one with `keelson up`",
        paths.data.display()
    );
    let client = keelson_client::client_from_kubeconfig(&kubeconfig, "keelson").await?;
    Ok((paths, client))
}
