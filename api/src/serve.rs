//! One listener: its surfaces, operators' routes, documents, and the middleware of every request.

mod address;
pub(crate) mod connection;
pub mod cors;
mod documentation;
mod front_page;
mod head;
mod headers;
mod methods;
pub(crate) mod place;
mod punctual;
mod worded;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Histogram;
use poem::http::{Method, StatusCode, header};
use poem::{Endpoint, EndpointExt as _, IntoResponse as _, PathPattern, Request, Response, get};
use poem_openapi::OperationId;
use shared::telemetry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use self::cors::Origins;
use self::documentation::{documented, json_file};
use self::methods::Methods;
use self::place::{Place, Room};
use crate::answer_cache::Kept;
use crate::context::Context;
pub use crate::openapi::document;
use crate::operations::{self, Operations};
use crate::problem::from_error;
use crate::{asyncapi, routes};

/// How long sent data may stay unacknowledged before the connection is closed (`TCP_USER_TIMEOUT`,
/// tcp(7)).
#[cfg(target_os = "linux")]
const TAKEN: Duration = Duration::from_secs(60);
/// Timeout for streams to end after the process is asked to stop.
const END: Duration = Duration::from_secs(5);

/// Which surfaces a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surfaces {
    /// `/api/v1`
    Members,
    /// `/admin/v1`
    Admins,
    /// Both.
    Both,
}

/// For whom a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// For those who use the APIs.
    Clients,
    /// For those who run the process: metrics, full health, documents about its inside.
    Operators,
    /// For both.
    Both,
}

impl Audience {
    pub(crate) fn has_clients(self) -> bool {
        self != Self::Operators
    }

    pub(crate) fn has_operators(self) -> bool {
        self != Self::Clients
    }
}

/// What a listener serves, and how it is reached.
#[derive(Debug, Clone)]
pub struct Door {
    /// The surfaces of its process.
    pub surfaces: Surfaces,
    /// For whom it is.
    pub audience: Audience,
    /// Whether they come by https, through a proxy.
    pub is_https: bool,
    /// The other origins whose pages may use the API.
    pub origins: Origins,
}

/// Builds all routes now. The future serves them on a bound listener until shutdown.
pub fn serve(
    listener: TcpListener,
    door: Door,
    cx: Context,
    operations: Operations,
    shutdown: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let feeds = cx.feeds.clone();
    let has_streams = door.audience.has_clients();
    let app = app(door, cx, &operations);
    async move {
        // The server does not track connections that became WebSockets.
        let streams = async {
            shutdown.cancelled().await;
            if has_streams && tokio::time::timeout(END, feeds.ended()).await.is_err() {
                tracing::warn!("some streams did not end in time");
            }
        };
        tokio::join!(connection::serve(listener, app, shutdown.clone()), streams).0
    }
}

/// Binds a listener to an address.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("listen on {address}: {error}"))?;
    // Connections inherit this option. Without it, a client that reads nothing could keep its
    // stream open for ever.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&listener)
        .set_tcp_user_timeout(Some(TAKEN))
        .map_err(|error| anyhow::anyhow!("bound the patience with {address}: {error}"))?;
    Ok(listener)
}

/// All routes of one listener.
fn app(door: Door, cx: Context, operations: &Operations) -> impl Endpoint + use<> {
    let Door { surfaces, audience, .. } = door;
    let mut methods = Methods::default();
    let (mut route, paths) = operations::routes(operations, audience);
    for path in paths {
        methods.read(path);
    }
    if audience.has_operators() {
        methods.read("/asyncapi.json");
        route = route.at("/asyncapi.json", json_file(asyncapi::document()));
    }
    if audience.has_clients() {
        methods.read("/");
        route = route.at("/", get(front_page::endpoint(surfaces, audience)));
    }
    if surfaces != Surfaces::Admins && audience.has_clients() {
        let members = routes::members();
        let document: Arc<str> = document(&members).into();
        methods.documented("/api/v1", &document);
        route = documented(route, document, ["/docs", "/openapi.json"], &mut methods);
        route = route.nest("/api/v1", members);
    }
    if surfaces != Surfaces::Members {
        let admins = routes::admins();
        let document: Arc<str> = document(&admins).into();
        if audience.has_clients() {
            methods.documented("/admin/v1", &document);
            route = route.nest("/admin/v1", admins);
        }
        if audience.has_operators() {
            if surfaces == Surfaces::Admins {
                route = documented(route, document.clone(), ["/docs", "/openapi.json"], &mut methods);
            }
            route = documented(route, document, ["/admin/docs", "/admin/openapi.json"], &mut methods);
        }
    }
    let front = Arc::new(Front { room: Room::default(), kept: Kept::new(), methods, cx, door });
    route.around(move |endpoint, request| answer(endpoint, request, front.clone()))
}

/// The state of the middleware, which comes before all routes.
struct Front {
    /// Places for requests in work.
    room: Room,
    kept: Kept,
    methods: Methods,
    /// Handed to the routes.
    cx: Context,
    door: Door,
}

/// The middleware of every request. It bounds, traces and measures; any error and any panic becomes
/// a problem.
async fn answer<E: Endpoint>(
    endpoint: Arc<E>,
    request: Request,
    front: Arc<Front>,
) -> poem::Result<Response> {
    let origin = front.door.origins.allowed(&request);
    let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match front.room.enter() {
        Ok(place) => admitted(endpoint, request, &front, &place).await,
        Err(problem) => problem.into_response(),
    };
    headers::complete(response.headers_mut(), front.door.is_https);
    front.door.origins.complete(response.headers_mut(), origin, is_preflight);
    Ok(response)
}

/// The answer to a request that has a place.
async fn admitted<E: Endpoint>(
    endpoint: Arc<E>,
    mut request: Request,
    front: &Front,
    place: &Place,
) -> Response {
    let (since, method) = (Instant::now(), method_name(request.method()));
    // At debug level, because the span is for traces. It would add little to a log line, and
    // recording it for the rare line costs more than reading a drive.
    let span = debug_span!(
        "request",
        otel.kind = "server",
        http.request.method = method,
        http.response.status_code = tracing::field::Empty,
    );
    if let Some(trace) = request.header("traceparent") {
        telemetry::continue_trace(&span, trace);
    }
    let checked = head::check(&mut request);
    let address = request.uri().clone();
    let (mut response, operation) = if let Err(problem) = checked {
        (problem.into_response(), Cow::Borrowed("none"))
    } else if request.method() == Method::OPTIONS {
        (front.methods.options(request.uri().path()), Cow::Borrowed("options"))
    } else if let Some((response, operation)) = front.kept.answer(&request, since) {
        (response, Cow::Borrowed(operation))
    } else {
        request.set_data(front.cx.clone());
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            request.set_data(place.clone());
        }
        // Boxed: the future is large, and each layer around it would move it once more.
        let answered = Box::pin(routed(endpoint, request)).instrument(span.clone()).await;
        front.kept.keep(&answered.0);
        answered
    };
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED
        && let Some(methods) = front.methods.allowed(address.path())
    {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    if !span.is_disabled() {
        telemetry::rename(&span, operation.clone().into_owned());
        span.record("http.response.status_code", status.as_u16());
    }
    measure(operation, method, status, since.elapsed());
    response
}

/// The answer of the routes, and the name of the operation. A route outside the surfaces is named
/// by the pattern of its path; without a route the name is `none`.
async fn routed<E: Endpoint>(endpoint: Arc<E>, request: Request) -> (Response, Cow<'static, str>) {
    match caught(endpoint.call(request)).await {
        Ok(output) => {
            let response = output.into_response();
            let operation = name(response.data::<OperationId>(), response.data::<PathPattern>());
            (response, operation)
        }
        Err(error) => {
            let operation = name(error.data::<OperationId>(), error.data::<PathPattern>());
            (from_error(&error).into_response(), operation)
        }
    }
}

thread_local! {
    /// The histograms that this thread has used. Finding one by its labels takes longer than
    /// recording.
    static KNOWN: RefCell<HashMap<(&'static str, &'static str, StatusCode), Histogram>> = RefCell::default();
}

/// Records how long a request took.
fn measure(operation: Cow<'static, str>, method: &'static str, status: StatusCode, took: Duration) {
    let histogram = |operation: Cow<'static, str>| {
        metrics::histogram!(
            "muster_http_request_seconds",
            "operation" => operation,
            "method" => method,
            "status" => status.as_str().to_owned()
        )
    };
    match operation {
        // Static names are a closed set, so this map is bounded.
        Cow::Borrowed(operation) => KNOWN.with_borrow_mut(|known| {
            let known = known.entry((operation, method, status));
            known.or_insert_with(|| histogram(Cow::Borrowed(operation))).record(took);
        }),
        Cow::Owned(_) => histogram(operation).record(took),
    }
}

fn name(operation: Option<&OperationId>, pattern: Option<&PathPattern>) -> Cow<'static, str> {
    match (operation, pattern) {
        (Some(operation), _) => Cow::Borrowed(operation.0),
        (None, Some(pattern)) => Cow::Owned(pattern.0.to_string()),
        (None, None) => Cow::Borrowed("none"),
    }
}

/// The label of a method. Clients can invent methods, so all unknown ones share a label.
fn method_name(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

async fn caught<T>(call: impl Future<Output = poem::Result<T>>) -> poem::Result<T> {
    use futures_util::FutureExt as _;
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        metrics::counter!("muster_panics_total").increment(1);
        tracing::error!("a request panicked; this is a bug");
        Err(poem::Error::from_status(StatusCode::INTERNAL_SERVER_ERROR))
    })
}
