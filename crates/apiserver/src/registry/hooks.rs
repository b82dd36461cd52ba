//! What single kinds do around a write that a pure strategy cannot: allocations in other objects.

use keelson_api::status::Status;
use serde_json::Value;

use super::engine::Registry;
use super::kind::Kind;
use super::service::ServiceReservation;

/// What a write has taken and gives back when it fails.
#[derive(Default)]
pub(super) struct Reservation {
    service: Option<ServiceReservation>,
}

impl Reservation {
    /// The write succeeded or not.
    pub(super) async fn finish(self, registry: &Registry, written: bool) {
        if let Some(service) = self.service {
            service.finish(registry, written).await;
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.info.group.is_empty() && kind.info.plural == "services"
}

/// Before an object is validated and created.
pub(super) async fn before_create(
    registry: &Registry,
    kind: &Kind,
    object: &mut Value,
    dry_run: bool,
) -> Result<Reservation, Status> {
    let mut reservation = Reservation::default();
    if is_service(kind) {
        reservation.service = Some(
            registry
                .inner
                .services
                .allocate(registry, object, None, dry_run)
                .await?,
        );
    }
    Ok(reservation)
}

/// Before an object is validated and replaced.
pub(super) async fn before_update(
    registry: &Registry,
    kind: &Kind,
    subresource: &str,
    new: &mut Value,
    old: &Value,
    dry_run: bool,
) -> Result<Reservation, Status> {
    let mut reservation = Reservation::default();
    if is_service(kind) && subresource.is_empty() {
        reservation.service = Some(
            registry
                .inner
                .services
                .allocate(registry, new, Some(old), dry_run)
                .await?,
        );
    }
    Ok(reservation)
}

/// After an object is gone.
pub(super) async fn after_delete(registry: &Registry, kind: &Kind, object: &Value) {
    if is_service(kind) {
        registry.inner.services.release(registry, object).await;
    }
}
