//! Collections in pages: opaque cursors, and a link to the next page.

mod cursor;

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, http::header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::http::{parameters, problem::Problem};

use cursor::Scope;
pub use cursor::invalid_cursor;

/// How many items a page has unless `limit` says otherwise.
pub const LIMIT_DEFAULT: i64 = 50;

/// The largest `limit`.
pub const LIMIT_MAX: i64 = 200;

/// The page that a request asks for.
///
/// `K` is the sort key of a row, unique in the collection: its `seq`, if the rows are sorted by nothing else. A client
/// that walks the pages sees each row whose sort key doesn't change exactly once, whatever rows are added meanwhile,
/// and in whatever order they are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery<K = i64> {
    /// The page starts after this sort key; `None` for the first page.
    pub after: Option<K>,
    /// 1 to [`LIMIT_MAX`]. Fetch one row more: it tells [`page`] whether there is another page.
    pub limit: i64,
    scope: Scope,
}

impl<K: Serialize + DeserializeOwned> PageQuery<K> {
    /// Reads `cursor` and `limit`. `filters` are the values of all other parameters that select or sort the rows: a
    /// cursor is valid only with the same ones.
    ///
    /// # Errors
    ///
    /// 400 for an invalid cursor, one of other filters, or a limit that is no number; 422 for a limit out of bounds.
    pub fn parse(
        parameters: &HashMap<String, String>,
        collection: &str,
        filters: &[Option<&str>],
    ) -> Result<Self, Problem> {
        let scope = Scope::new(collection, filters);
        let after = parameters.get("cursor").map(|cursor| scope.decode(cursor)).transpose()?;
        let limit = parameters::number(parameters, "limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
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

/// Responds with a page: `{"items", "next"}` and, unless it is the last one, `Link: <…>; rel="next"`, which keeps the
/// other query parameters.
///
/// `rows` are up to `limit + 1` rows with their sort keys, in the collection's order; the extra row is left out.
pub fn page<K: Serialize, T: Serialize>(
    req: &HttpRequest,
    mut rows: Vec<(K, T)>,
    query: &PageQuery<K>,
) -> HttpResponse {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|(sort_key, _)| query.scope.encode(sort_key));
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    if let Some(next) = &next {
        response.insert_header((header::LINK, format!("<{}>; rel=\"next\"", next_link(req, next))));
    }
    response.json(Page { items: rows.into_iter().map(|(_, item)| item).collect(), next })
}

/// The characters that are escaped inside of `<…>` in a Link header, besides those that are not ASCII.
const LINK_ESCAPES: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

fn next_link(req: &HttpRequest, cursor: &str) -> String {
    let others = req.query_string().split('&').filter(|pair| !pair.is_empty() && !is_cursor(pair));
    let cursor = format!("cursor={cursor}");
    let query = others.chain([&*cursor]).collect::<Vec<_>>().join("&");
    let target = format!("{}?{query}", req.path());
    utf8_percent_encode(&target, LINK_ESCAPES).to_string()
}

/// Whether a query parameter is the cursor, even if its name is percent-encoded.
fn is_cursor(pair: &str) -> bool {
    pair.split('=').next().is_some_and(|name| parameters::decode(name).as_deref() == Ok("cursor"))
}

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, test::TestRequest};
    use serde_json::{Value, json};

    use super::*;

    fn parameter_map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn response(uri: &str, rows: i64, limit: i64) -> (Option<String>, Value) {
        let request = TestRequest::with_uri(uri).to_http_request();
        let rows = (0..rows).map(|n| (1000 - n, n)).collect();
        let query = PageQuery { after: None, limit, scope: Scope::new("movie", &[]) };
        let page = page(&request, rows, &query);
        let link = page.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let body = to_bytes(page.into_body()).await.unwrap();
        (link, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_cursor_is_valid_only_with_the_same_filters() {
        let cursor = Scope::new("movie", &[Some("a")]).encode(&7);
        let parse = |filter| PageQuery::parse(&parameter_map(&[("cursor", &cursor)]), "movie", &[filter]);
        assert_eq!(parse(Some("a")).unwrap().after, Some(7));
        for filter in [None, Some("b")] {
            let problem = parse(filter).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (400, "/cursor"));
        }
    }

    #[test]
    fn limits_have_bounds() {
        let parse = |limit: Option<&str>| {
            let parameters = limit.map(|limit| ("limit", limit));
            let query = PageQuery::<i64>::parse(&parameter_map(parameters.as_slice()), "movie", &[]);
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
        let (link, body) = response("/movies?q=a%20b&cursor=old&limit=2&%63ursor=", 3, 2).await;
        let next = Scope::new("movie", &[]).encode(&999);
        assert_eq!(body, json!({"items": [0, 1], "next": next}));
        assert_eq!(link.unwrap(), format!("</movies?q=a%20b&limit=2&cursor={next}>; rel=\"next\""));
    }

    #[actix_web::test]
    async fn the_last_page_has_no_link() {
        for rows in [0, 1, 2] {
            let (link, body) = response("/movies?limit=2", rows, 2).await;
            assert_eq!((link, &body["next"]), (None, &Value::Null));
            assert_eq!(body["items"].as_array().unwrap().len() as i64, rows);
        }
    }
}
