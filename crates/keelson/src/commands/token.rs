//! `keelson token`.

use anyhow::{Context, Result};
use jiff::SignedDuration;
use keelson_cluster::settings::ClusterSettings;
use keelson_cluster::{token, up};
use serde_json::json;

use crate::cli::{Global, Output, TokenCommand};
use crate::commands::admin_client;
use crate::output::{print_json, print_line, print_table};

/// Creates, lists or deletes join tokens.
pub(crate) async fn run(global: &Global, command: TokenCommand) -> Result<()> {
    let (paths, client) = admin_client(global).await?;
    match command {
        TokenCommand::Create { ttl } => {
            let hash = up::authority_hash(&paths)?;
            let token = token::create(&client, &hash, parse_ttl(&ttl)?, "made by keelson token create")
                .await
                .context("cannot make a token")?;
            let settings = ClusterSettings::read(&paths)?.context("the cluster has no settings")?;
            let server = settings.advertised_url();
            if global.output == Output::Json {
                return print_json(&json!({"token": token.to_string(), "server": server, "ttl": ttl}));
            }
            print_line(format_args!("{token}"));
            eprintln!("\nOn the machine that shall join:\n  keelson agent --server {server} --token {token}");
        }
        TokenCommand::List => {
            let tokens = token::list(&client).await.context("cannot list tokens")?;
            if global.output == Output::Json {
                return print_json(&tokens);
            }
            let row = |t: &token::TokenInfo| {
                vec![
                    t.id.clone(),
                    t.expires.clone().unwrap_or_else(|| "never".into()),
                    t.description.clone(),
                ]
            };
            print_table(
                &["ID", "EXPIRES", "DESCRIPTION"],
                &tokens.iter().map(row).collect::<Vec<_>>(),
            );
        }
        TokenCommand::Delete { id } => {
            token::delete(&client, &id)
                .await
                .with_context(|| format!("cannot delete token {id}"))?;
            print_line(format_args!("token {id} deleted"));
        }
    }
    Ok(())
}

/// `None` is for ever.
fn parse_ttl(text: &str) -> Result<Option<SignedDuration>> {
    if text == "0" {
        return Ok(None);
    }
    let duration: SignedDuration = text
        .parse()
        .with_context(|| format!("--ttl {text}: write a duration such as 30m, 24h or 0"))?;
    anyhow::ensure!(duration.is_positive(), "--ttl {text}: must not be negative");
    Ok(Some(duration))
}
