//! What the environment of a forked child says about its channel.

use crate::frame::Serialization;

/// Names the descriptor of the child's end of the channel.
pub const CHANNEL_FD: &str = "NODE_CHANNEL_FD";
/// Names the serialization of the channel.
pub const SERIALIZATION_MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";
/// Makes the child a cluster worker, and is its id.
pub const UNIQUE_ID: &str = "NODE_UNIQUE_ID";

/// What a parent told its child about the channel between them.
///
/// Node: `lib/internal/process/pre_execution.js`, `setupChildProcessIpcChannel`; checked with 18 to 26.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelEnv {
    /// The number of the child's descriptor.
    pub fd: i32,
    /// How messages are written.
    pub serialization: Serialization,
    /// The worker id, if the child is to be a cluster worker.
    pub unique_id: Option<u32>,
}

/// Why the environment cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// `NODE_CHANNEL_FD` holds no number.
    #[error("{CHANNEL_FD}={0:?} is not a descriptor number; whoever started this process set it wrongly")]
    Fd(String),
    /// `NODE_CHANNEL_SERIALIZATION_MODE` is neither `json` nor `advanced`.
    #[error("{SERIALIZATION_MODE}={0:?} is neither \"json\" nor \"advanced\"")]
    Serialization(String),
}

impl ChannelEnv {
    /// Reads the three variables through `get`. `None` if there is no channel.
    ///
    /// As in Node, an empty `NODE_CHANNEL_FD` is no channel, and of a number only the leading digits count.
    ///
    /// # Errors
    /// [`EnvError`], where Node would end with a failed assertion or a `TypeError`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EnvError> {
        let Some(text) = get(CHANNEL_FD).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let fd = text[..digits].parse().map_err(|_| EnvError::Fd(text.clone()))?;
        let serialization = match get(SERIALIZATION_MODE).as_deref() {
            None | Some("json") => Serialization::Json,
            Some("advanced") => Serialization::Advanced,
            Some(other) => return Err(EnvError::Serialization(other.to_owned())),
        };
        let unique_id = get(UNIQUE_ID)
            .filter(|id| !id.is_empty())
            .map(|id| id.parse().unwrap_or(0));
        Ok(Some(Self {
            fd,
            serialization,
            unique_id,
        }))
    }

    /// The variables that tell a child all this, in the order in which Node sets them.
    ///
    /// The caller must first drop the same names from the environment that the child inherits: `getenv` answers with
    /// the first of two.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        let id = self.unique_id.map(|id| (UNIQUE_ID, id.to_string()));
        let channel = [
            (CHANNEL_FD, self.fd.to_string()),
            (SERIALIZATION_MODE, self.serialization.as_str().to_owned()),
        ];
        id.into_iter().chain(channel)
    }

    /// Whether `name` is one of the variables that only a parent may set.
    pub fn owns(name: &str) -> bool {
        [CHANNEL_FD, SERIALIZATION_MODE, UNIQUE_ID].contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<ChannelEnv>, EnvError> {
        ChannelEnv::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_environment_is_read_as_node_reads_it() {
        let json = |fd, unique_id| {
            Ok(Some(ChannelEnv {
                fd,
                serialization: Serialization::Json,
                unique_id,
            }))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(CHANNEL_FD, "")]), Ok(None));
        assert_eq!(read(&[(CHANNEL_FD, "3")]), json(3, None));
        assert_eq!(read(&[(CHANNEL_FD, "3junk")]), json(3, None));
        assert_eq!(read(&[(CHANNEL_FD, "3"), (UNIQUE_ID, "7")]), json(3, Some(7)));
        assert_eq!(read(&[(CHANNEL_FD, "3"), (UNIQUE_ID, "abc")]), json(3, Some(0)));
        assert_eq!(read(&[(CHANNEL_FD, "3"), (UNIQUE_ID, "")]), json(3, None));
        assert_eq!(read(&[(CHANNEL_FD, "-1")]), Err(EnvError::Fd("-1".into())));
        assert_eq!(
            read(&[(CHANNEL_FD, "99999999999")]),
            Err(EnvError::Fd("99999999999".into()))
        );
        let odd = read(&[(CHANNEL_FD, "3"), (SERIALIZATION_MODE, "xml")]);
        assert_eq!(odd, Err(EnvError::Serialization("xml".into())));
    }

    #[test]
    fn what_a_parent_writes_a_child_reads() {
        let env = ChannelEnv {
            fd: 3,
            serialization: Serialization::Advanced,
            unique_id: Some(2),
        };
        let vars: Vec<_> = env.variables().collect();
        let got = ChannelEnv::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()));
        assert_eq!(got, Ok(Some(env)));
        assert!(vars.iter().all(|(name, _)| ChannelEnv::owns(name)));
    }
}
