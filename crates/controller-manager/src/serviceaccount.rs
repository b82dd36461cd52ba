//! serviceaccount-controller: every namespace that is not going away has the ServiceAccount `default`.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::ObjectMeta;

use crate::Context;
use crate::shared::every_namespace::keep_in_every_namespace;

/// Name of the account.
const DEFAULT: &str = "default";

/// Starts the controller.
pub(crate) async fn start(context: Context) {
    let accounts = context.informer::<ServiceAccount>();
    keep_in_every_namespace(context, accounts, DEFAULT, |existing| {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.into()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        existing.is_none().then_some(account)
    })
    .await;
}
