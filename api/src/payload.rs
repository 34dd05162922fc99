//! JSON answers.

use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use schemars::JsonSchema;
use serde::Serialize;

use crate::schema::{self, Way};

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json; charset=utf-8";

/// A JSON answer: written by serde, described by schemars.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: JsonSchema + Send> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = JSON;

    fn schema_ref() -> MetaSchemaRef {
        schema::reference::<T>(Way::Out)
    }

    fn register(registry: &mut Registry) {
        schema::register::<T>(Way::Out, registry);
    }
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("an answer is plain data");
        Response::builder().content_type(JSON).body(body)
    }
}

impl<T: JsonSchema + Send> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: JSON, schema: Self::schema_ref() };
        let response = MetaResponse {
            description: "",
            status: Some(200),
            status_range: None,
            content: vec![content],
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }
}
