//! Lists and watches without a server: just enough of the API for an informer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Frames = stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    /// (path, event) by revision, from 1.
    log: Vec<(String, Value)>,
}

/// Objects by collection path, e.g. `/api/v1/services`.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<usize>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        FakeApi {
            state: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn change(&self, path: &str, kind: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        object["metadata"]["resourceVersion"] = json!((state.log.len() + 1).to_string());
        object["metadata"]["uid"] = json!(object["metadata"]["name"]);
        let name = format!(
            "{}/{}",
            object["metadata"]["namespace"], object["metadata"]["name"]
        );
        let key = (path.to_owned(), name);
        let event = match kind {
            "DELETED" => state.objects.remove(&key).map(|_| "DELETED"),
            _ => Some(if state.objects.insert(key, object.clone()).is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            }),
        };
        state.log.push((
            path.to_owned(),
            json!({ "type": event.unwrap_or("DELETED"), "object": object }),
        ));
        self.changed.send_replace(state.log.len());
    }

    pub(crate) fn put(&self, path: &str, object: impl serde::Serialize) {
        self.change(path, "PUT", serde_json::to_value(object).unwrap());
    }

    pub(crate) fn delete(&self, path: &str, object: impl serde::Serialize) {
        self.change(path, "DELETED", serde_json::to_value(object).unwrap());
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        keelson_client::client_from_service(tower::service_fn(move |request: Request<Body>| {
            let response = api.respond(&request);
            async move { Ok::<_, Infallible>(response) }
        }))
    }

    fn respond(&self, request: &Request<Body>) -> Response<StreamBody<Frames>> {
        use futures::StreamExt;
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|p| p.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let body = if parameter("watch").is_some() {
            let since: usize = parameter("resourceVersion")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let api = self.clone();
            stream::unfold((api.changed.subscribe(), since), move |(mut changed, mut at)| {
                let (api, path) = (api.clone(), path.clone());
                async move {
                    loop {
                        {
                            let state = api.state.lock().unwrap();
                            while at < state.log.len() {
                                let (event_path, event) = &state.log[at];
                                at += 1;
                                if *event_path == path {
                                    let line = Bytes::from(format!("{event}\n"));
                                    return Some((Ok(Frame::data(line)), (changed, at)));
                                }
                            }
                        }
                        changed.wait_for(|n| *n > at).await.ok()?;
                    }
                }
            })
            .boxed()
        } else {
            let state = self.state.lock().unwrap();
            let items: Vec<&Value> = state
                .objects
                .iter()
                .filter(|((p, _), _)| *p == path)
                .map(|(_, o)| o)
                .collect();
            let list = json!({ "kind": "List", "apiVersion": "v1", "items": items,
                               "metadata": { "resourceVersion": state.log.len().to_string() } });
            stream::once(async move { Ok(Frame::data(Bytes::from(list.to_string()))) }).boxed()
        };
        Response::builder()
            .header("content-type", "application/json")
            .body(StreamBody::new(body))
            .unwrap()
    }
}
