//! As much of HTTP/1.1 as a load needs: one request, and the end of its answer.

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// How many bytes it has itself.
    pub(super) bytes: usize,
    /// How many bytes follow; `None` if as many as come until the connection ends.
    pub(super) body: Option<u64>,
    /// Whether the server will close the connection.
    pub(super) close: bool,
}

/// It is no answer, or one whose end this load cannot find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a head; `None` if more bytes are needed.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(|_| Malformed)? else {
        return Ok(None);
    };
    let mut close = response.version == Some(0);
    let mut body = None;
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = str::from_utf8(field.value).map_err(|_| Malformed)?;
            body = Some(text.trim().parse().map_err(|_| Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            close = field.value.eq_ignore_ascii_case(b"close");
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // None of the servers here needs it.
            return Err(Malformed);
        }
    }
    if body.is_none() && !close {
        return Err(Malformed);
    }
    Ok(Some(Head {
        status: response.code.ok_or(Malformed)?,
        bytes: length,
        body,
        close,
    }))
}

/// A request for a path.
pub(super) fn request(path: &str, keep_alive: bool) -> Vec<u8> {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{connection}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_however_it_is_cut() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello";
        let end = text.len() - 5;
        for cut in 0..end {
            assert_eq!(head(&text[..cut]), Ok(None), "{cut}");
        }
        let wanted = Head {
            status: 200,
            bytes: end,
            body: Some(5),
            close: false,
        };
        assert_eq!(head(text), Ok(Some(wanted)));
    }

    #[test]
    fn who_will_close_is_known() {
        let close = |text: &str| head(text.as_bytes()).map(|head| head.map(|head| head.close));
        assert_eq!(close("HTTP/1.1 200 OK\r\nconnection: Close\r\n\r\n"), Ok(Some(true)));
        assert_eq!(close("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"), Ok(Some(true)));
        assert_eq!(
            close("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"),
            Ok(Some(false))
        );
    }

    #[test]
    fn an_answer_without_an_end_is_refused() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed));
        assert_eq!(
            head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Malformed)
        );
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), Err(Malformed));
        assert_eq!(head(b"SSH-2.0-x\r\n"), Err(Malformed));
    }
}
