//! What loader and worker say to each other: a packet of JSON each, with descriptors where maps are handed
//! over. A socket pair of the kind that keeps packets apart and tells when the other side has ended.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest packet, in bytes.
const LONGEST: usize = 64 * 1024;
/// The most descriptors in one packet.
const DESCRIPTORS: usize = 64;

/// One end of a pair of `SOCK_SEQPACKET` sockets: a message is one packet, with its descriptors.
#[derive(Debug)]
pub struct Channel(OwnedFd);

// === impl Channel ===

impl Channel {
    /// Makes a pair, closed on exec: the loader is handed its end on purpose.
    pub fn pair() -> io::Result<(Self, Self)> {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (one, other) = rustix::net::socketpair(kind.0, kind.1, kind.2, None)?;
        Ok((Self(one), Self(other)))
    }

    /// An end that another process was given.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The end, to be given to another process.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with descriptors, of which the receiver gets its own.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > LONGEST || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long for the loader"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message; `None` where the other side has ended.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut packet = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let slices = &mut [IoSliceMut::new(&mut packet)];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recvmsg(&self.0, slices, &mut ancillary, flags));
        let length = match received {
            Ok(message) if message.bytes > 0 => message.bytes,
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(Some((serde_json::from_slice(&packet[..length])?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_and_the_end_is_told() {
        let (one, other) = Channel::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        let words = vec!["a".repeat(LONGEST - 100)];
        one.send(&words, &[write.as_fd()]).unwrap();
        one.send(&"second", &[]).unwrap();
        drop(write);
        let (first, descriptors) = other.receive::<Vec<String>>().unwrap().unwrap();
        assert_eq!(first, words);
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        std::fs::File::from(descriptor).write_all(b"through it").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through it");
        assert_eq!(other.receive::<String>().unwrap().unwrap().0, "second");
        drop(one);
        assert!(other.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error_and_the_next_one_is_read() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&1, &[]).unwrap();
        one.send(&"text", &[]).unwrap();
        assert!(other.receive::<String>().is_err());
        assert_eq!(other.receive::<String>().unwrap().unwrap().0, "text");
        assert!(one.send(&"a".repeat(LONGEST), &[]).is_err());
    }
}
