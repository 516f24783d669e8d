//! The sentences a router answers with. The tag comes right after the reply word, as live captures
//! show, and every trap is followed by `!done`.

use crate::sentence::{encode_length, encode_word};

/// Writes replies to one command.
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    tag: Option<&'a [u8]>,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, tag: Option<&'a [u8]>) -> Self {
        Self { out, tag }
    }

    /// Starts a `!re`; attributes and [`end`](Self::end) follow.
    pub(crate) fn row(&mut self) {
        self.start(b"!re");
    }

    pub(crate) fn attribute(&mut self, name: &[u8], value: &[u8]) {
        encode_length(self.out, name.len() + value.len() + 2);
        self.out.push(b'=');
        self.out.extend_from_slice(name);
        self.out.push(b'=');
        self.out.extend_from_slice(value);
    }

    pub(crate) fn end(&mut self) {
        self.out.push(0);
    }

    pub(crate) fn empty(&mut self) {
        self.start(b"!empty");
        self.end();
    }

    pub(crate) fn done(&mut self, ret: Option<&[u8]>) {
        self.start(b"!done");
        if let Some(ret) = ret {
            self.attribute(b"ret", ret);
        }
        self.end();
    }

    /// The trap alone; [`done`](Self::done) must follow.
    pub(crate) fn trap(&mut self, message: &str, category: Option<u8>) {
        self.start(b"!trap");
        if let Some(category) = category {
            self.attribute(b"category", category.to_string().as_bytes());
        }
        self.attribute(b"message", message.as_bytes());
        self.end();
    }

    /// The last sentence of a connection: no tag, and the reason as a bare word.
    pub(crate) fn fatal(&mut self, reason: &str) {
        encode_word(self.out, b"!fatal");
        encode_word(self.out, reason.as_bytes());
        self.end();
    }

    fn start(&mut self, word: &[u8]) {
        encode_word(self.out, word);
        if let Some(tag) = self.tag {
            encode_length(self.out, tag.len() + 5);
            self.out.extend_from_slice(b".tag=");
            self.out.extend_from_slice(tag);
        }
    }
}
