//! Collections: query parameters, opaque cursors, and pages that link to the next one.

use std::{collections::HashMap, fmt::Write as _};

use actix_web::{HttpRequest, HttpResponse, http::header};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, value},
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::problem::Problem,
    http::validation::{Number, Validator, uuid},
};

mod cursor;

use cursor::Scope;
pub use cursor::foreign;

/// How many items a page has unless `limit` says otherwise.
pub const LIMIT_DEFAULT: i64 = 50;

/// The largest `limit`.
pub const LIMIT_MAX: i64 = 200;

/// Which page is asked for. `P` is a row's place in the order, which no two rows share: its `seq`, if nothing
/// else is sorted by. What has the same place tomorrow is met once by whoever walks the pages, whatever
/// comes in meanwhile, and in whatever order it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery<P = i64> {
    /// Rows that follow this place; `None` for the first page.
    pub after: Option<P>,
    /// 1 to [`LIMIT_MAX`]. Fetch one row more: it tells [`page`] whether there is another page.
    pub limit: i64,
    scope: Scope,
}

impl<P: Serialize + DeserializeOwned> PageQuery<P> {
    /// From `cursor` and `limit`. `filters` are the values of everything else that chooses or sorts the
    /// rows: a cursor goes on with the same ones only.
    ///
    /// # Errors
    ///
    /// 400 for a bad or foreign cursor or a limit that is no number, 422 for one that is out of bounds.
    pub fn parse(
        parameters: &HashMap<String, String>,
        collection: &str,
        filters: &[Option<&str>],
    ) -> Result<Self, Problem> {
        let scope = Scope::new(collection, filters);
        let after = parameters.get("cursor").map(|cursor| scope.decode(cursor)).transpose()?;
        let limit = number(parameters, "limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
        Ok(Self { after, limit, scope })
    }
}

/// One page of a collection.
#[derive(Serialize, ToSchema)]
pub struct Page<T> {
    items: Vec<T>,
    /// The cursor of the next page; null on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// `{"items", "next"}` and, if there is more, `Link: <…>; rel="next"`, which keeps the other query parameters.
///
/// `rows` are up to `limit + 1` of them with their places, in the collection's order; the extra one is not shown.
pub fn page<P: Serialize, T: Serialize>(
    req: &HttpRequest,
    mut rows: Vec<(P, T)>,
    query: &PageQuery<P>,
) -> HttpResponse {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|(place, _)| query.scope.encode(place));
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    if let Some(next) = &next {
        response.insert_header((header::LINK, format!("<{}>; rel=\"next\"", next_link(req, next))));
    }
    response.json(Page { items: rows.into_iter().map(|(_, item)| item).collect(), next })
}

fn next_link(req: &HttpRequest, cursor: &str) -> String {
    let kept =
        req.query_string().split('&').filter(|pair| !pair.is_empty() && !is_cursor(pair)).map(escape_target);
    let parameters: Vec<_> = kept.chain([format!("cursor={cursor}")]).collect();
    format!("{}?{}", escape_target(req.path()), parameters.join("&"))
}

/// However its name is written.
fn is_cursor(pair: &str) -> bool {
    pair.split('=').next().is_some_and(|name| decode(name).as_deref() == Ok("cursor"))
}

/// What may not stand inside `<…>` of a Link header.
fn escape_target(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'!' | b'#'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => write!(escaped, "%{byte:02X}").expect("a String takes all"),
        }
        escaped
    })
}

/// The query parameters, decoded.
///
/// # Errors
///
/// 400 that names the parameter: unknown, repeated, or badly encoded ones, and NUL.
pub fn query(req: &HttpRequest, known: &[&str]) -> Result<HashMap<String, String>, Problem> {
    let mut parameters = HashMap::new();
    for pair in req.query_string().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)
            .map_err(|detail| Problem::bad_field("/", format!("a query parameter's name {detail}")))?;
        if !known.contains(&name.as_str()) {
            let allowed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Problem::bad_field(
                format!("/{name}"),
                format!("is no query parameter here; there are: {allowed}"),
            ));
        }
        let value = decode(value).map_err(|detail| Problem::bad_field(format!("/{name}"), detail))?;
        if parameters.contains_key(&name) {
            return Err(Problem::bad_field(format!("/{name}"), "must stand only once"));
        }
        parameters.insert(name, value);
    }
    Ok(parameters)
}

fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("must be percent-encoded");
                };
                u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")
            }
            byte => byte,
        });
    }
    if bytes.contains(&0) {
        return Err("must not contain NUL");
    }
    String::from_utf8(bytes).map_err(|_| "must be UTF-8")
}

/// The id in the path's `{name}`.
///
/// # Errors
///
/// 400 `/id must be a UUID`.
pub fn path_id(req: &HttpRequest, name: &str) -> Result<Uuid, Problem> {
    uuid(req.match_info().query(name)).ok_or_else(|| Problem::bad_field(format!("/{name}"), "must be a UUID"))
}

/// A query parameter that is text of 1 to `most` characters.
///
/// # Errors
///
/// 422 that names the parameter and the bound, as for a field.
pub fn text<'a>(
    parameters: &'a HashMap<String, String>,
    name: &str,
    most: usize,
) -> Result<Option<&'a str>, Problem> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let mut bounds = Validator::new();
    bounds.text(&format!("/{name}"), text.clone(), 1, most);
    bounds.check()?;
    Ok(Some(text))
}

/// A query parameter that is a number between `min` and `max`, both included.
///
/// # Errors
///
/// 400 for what is no number, 422 that names the parameter and the bounds.
pub fn number(
    parameters: &HashMap<String, String>,
    name: &str,
    min: i64,
    max: i64,
) -> Result<Option<i64>, Problem> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let pointer = format!("/{name}");
    let number = Number::deserialize(value::StrDeserializer::<value::Error>::new(text))
        .map_err(|error| Problem::bad_field(&pointer, error.to_string()))?;
    let mut bounds = Validator::new();
    let number = bounds.number(&pointer, number, min, max);
    bounds.check()?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, test::TestRequest};
    use serde_json::{Value, json};

    use super::*;

    fn given(parameters: &[(&str, &str)]) -> HashMap<String, String> {
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn shown(uri: &str, rows: i64, limit: i64) -> (Option<String>, Value) {
        let request = TestRequest::with_uri(uri).to_http_request();
        let rows = (0..rows).map(|n| (1000 - n, n)).collect();
        let query = PageQuery { after: None, limit, scope: Scope::new("movie", &[]) };
        let response = page(&request, rows, &query);
        let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let body = to_bytes(response.into_body()).await.unwrap();
        (link, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_cursor_goes_on_with_the_same_filters_only() {
        let cursor = Scope::new("movie", &[Some("a")]).encode(&7);
        let parse = |filter| PageQuery::parse(&given(&[("cursor", &cursor)]), "movie", &[filter]);
        assert_eq!(parse(Some("a")).unwrap().after, Some(7));
        for filter in [None, Some("b")] {
            let problem = parse(filter).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (400, "/cursor"));
        }
    }

    #[test]
    fn limits_are_bound() {
        let parse = |limit: Option<&str>| {
            let parameters = limit.map(|limit| ("limit", limit));
            let query = PageQuery::<i64>::parse(&given(parameters.as_slice()), "movie", &[]);
            query.map(|query| query.limit)
        };
        assert_eq!(parse(None).unwrap(), 50);
        assert_eq!(parse(Some("1")).unwrap(), 1);
        assert_eq!(parse(Some("200")).unwrap(), 200);
        for (text, status) in
            [("0", 422), ("201", 422), ("-1", 422), ("99999999999999999999", 422), ("", 400), ("ten", 400)]
        {
            let problem = parse(Some(text)).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (status, "/limit"));
        }
    }

    #[actix_web::test]
    async fn a_full_page_links_to_the_next() {
        let (link, body) = shown("/movies?q=a%20b&cursor=old&limit=2&%63ursor=", 3, 2).await;
        let next = Scope::new("movie", &[]).encode(&999);
        assert_eq!(body, json!({"items": [0, 1], "next": next}));
        assert_eq!(link.unwrap(), format!("</movies?q=a%20b&limit=2&cursor={next}>; rel=\"next\""));
    }

    #[actix_web::test]
    async fn the_last_page_links_nowhere() {
        for rows in [0, 1, 2] {
            let (link, body) = shown("/movies?limit=2", rows, 2).await;
            assert_eq!((link, &body["next"]), (None, &Value::Null));
            assert_eq!(body["items"].as_array().unwrap().len() as i64, rows);
        }
    }

    #[test]
    fn queries_are_decoded() {
        let request = TestRequest::with_uri("/?userId=a+b%2Bc%C3%BC&limit=2&&cursor=").to_http_request();
        let parameters = query(&request, &["userId", "limit", "cursor"]).unwrap();
        assert_eq!(parameters["userId"], "a b+cü");
        assert_eq!((parameters["limit"].as_str(), parameters["cursor"].as_str()), ("2", ""));
    }

    #[test]
    fn bad_queries_name_the_parameter() {
        for (uri, pointer) in [
            ("/?user=1", "/user"),
            ("/?userId=1&userId=2", "/userId"),
            ("/?userId=%", "/userId"),
            ("/?userId=%f", "/userId"),
            ("/?userId=%fg", "/userId"),
            ("/?userId=%ff", "/userId"),
            ("/?userId=a%00b", "/userId"),
            ("/?%zz=1", "/"),
        ] {
            let problem = query(&TestRequest::with_uri(uri).to_http_request(), &["userId"]).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.errors()[0].pointer.as_str()),
                (400, pointer),
                "{uri}"
            );
        }
    }

    #[test]
    fn text_parameters_are_bound() {
        assert_eq!(text(&HashMap::new(), "userId", 3).unwrap(), None);
        assert_eq!(text(&given(&[("userId", "üüü")]), "userId", 3).unwrap(), Some("üüü"));
        for value in ["", "üüüü"] {
            let problem = text(&given(&[("userId", value)]), "userId", 3).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.detail()),
                (422, "/userId must have between 1 and 3 characters"),
            );
        }
    }

    #[test]
    fn path_ids_are_uuids() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let request = TestRequest::default().param("id", id).to_http_request();
        assert_eq!(path_id(&request, "id").unwrap().to_string(), id);
        let request = TestRequest::default().param("id", "7").to_http_request();
        assert_eq!(path_id(&request, "id").unwrap_err().detail(), "/id must be a UUID");
    }
}
