//! Where one message of a TCP stream ends and the next begins (RFC 6587): a count of octets before a
//! message, or a newline after it, each message for itself. No stream makes it hold more than one
//! longest message.

/// The most digits of a count; a larger message could not be taken whole anyway.
const DIGITS: usize = 7;

#[derive(Debug)]
pub(super) struct Framing {
    longest: usize,
    message: Vec<u8>,
    state: FramingState,
    cut: u64,
}

#[derive(Clone, Copy, Debug)]
enum FramingState {
    /// Before a message: nothing of it, or digits that may be a count.
    Start,
    /// In a message that a newline ends; whether it was too long already.
    Line { over: bool },
    /// In a message of so many more bytes; whether it was too long already.
    Counted { left: usize, over: bool },
}

// === impl Framing ===

impl Framing {
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, message: Vec::new(), state: FramingState::Start, cut: 0 }
    }

    /// Takes bytes as they come; calls `each` with every message that is complete.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            match self.state {
                FramingState::Start => {
                    rest = &rest[1..];
                    match byte {
                        b'\n' | b'\r' | 0 if self.message.is_empty() => {}
                        b' ' if !self.message.is_empty() => self.begin_counted(),
                        b'1'..=b'9' if self.message.is_empty() => self.message.push(byte),
                        b'0'..=b'9' if !self.message.is_empty() && self.message.len() < DIGITS => {
                            self.message.push(byte);
                        }
                        _ => {
                            self.state = FramingState::Line { over: false };
                            self.line_byte(byte, &mut each);
                        }
                    }
                }
                FramingState::Line { .. } => {
                    rest = &rest[1..];
                    self.line_byte(byte, &mut each);
                }
                FramingState::Counted { left, over } => {
                    let take = left.min(rest.len());
                    let room = self.longest.saturating_sub(self.message.len());
                    self.message.extend_from_slice(&rest[..take.min(room)]);
                    let over = over || take > room;
                    rest = &rest[take..];
                    self.state = FramingState::Counted { left: left - take, over };
                    if left == take {
                        self.end(over, &mut each);
                    }
                }
            }
        }
    }

    /// The stream has ended; what is left is a message.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.message.is_empty() {
            self.end(false, &mut each);
        }
    }

    /// How many messages were cut since the last call.
    pub(super) fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }

    fn begin_counted(&mut self) {
        let count = std::str::from_utf8(&self.message).ok().and_then(|text| text.parse().ok());
        match count {
            Some(left) if left > 0 => {
                self.message.clear();
                self.state = FramingState::Counted { left, over: false };
            }
            _ => self.state = FramingState::Line { over: false },
        }
    }

    fn line_byte(&mut self, byte: u8, each: &mut impl FnMut(&[u8])) {
        let FramingState::Line { over } = self.state else { return };
        if byte == b'\n' || byte == 0 {
            self.end(over, each);
        } else if self.message.len() < self.longest {
            self.message.push(byte);
        } else {
            self.state = FramingState::Line { over: true };
        }
    }

    fn end(&mut self, over: bool, each: &mut impl FnMut(&[u8])) {
        self.cut += u64::from(over);
        each(&self.message);
        self.message.clear();
        self.state = FramingState::Start;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(stream: &[u8], piece: usize, longest: usize) -> (Vec<Vec<u8>>, u64) {
        let mut framing = Framing::new(longest);
        let mut messages = Vec::new();
        for piece in stream.chunks(piece.max(1)) {
            framing.feed(piece, |message| messages.push(message.to_vec()));
        }
        framing.finish(|message| messages.push(message.to_vec()));
        let cut = framing.take_cut();
        (messages, cut)
    }

    #[test]
    fn an_endless_line_and_a_huge_count_hold_no_more_than_one_message() {
        let mut framing = Framing::new(100);
        for _ in 0..1000 {
            framing.feed(&[b'x'; 1000], |_| panic!("no end, no message"));
            assert!(framing.message.capacity() <= 4096);
        }
        let (messages, cut) = framed(b"9999999 aaaaaa", 3, 4);
        assert_eq!((messages, cut), (vec![b"aaaa".to_vec()], 0));
    }

    #[test]
    fn a_line_that_begins_with_digits_is_a_line() {
        let (messages, _) = framed(b"2026-01-01 x\n12345678 y\n", 1, 100);
        assert_eq!(messages, [b"2026-01-01 x".to_vec(), b"12345678 y".to_vec()]);
    }

    #[test]
    fn a_long_message_is_cut_and_the_next_is_whole() {
        let (messages, cut) = framed(b"<1>abcdefgh\n6 <1>xyz<1>q\n", 2, 6);
        assert_eq!((messages, cut), (vec![b"<1>abc".to_vec(), b"<1>xyz".to_vec(), b"<1>q".to_vec()], 1));
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_the_stream_is_cut_into_pieces(
            messages in prop::collection::vec("<[0-9]{1,3}>[a-z 0-9]{1,20}", 1..10),
            counted in prop::collection::vec(any::<bool>(), 10),
            piece in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for (message, counted) in messages.iter().zip(counted) {
                if counted {
                    stream.extend(format!("{} {message}", message.len()).bytes());
                } else {
                    stream.extend(format!("{message}\n").bytes());
                }
            }
            let expected: Vec<Vec<u8>> = messages.iter().map(|message| message.clone().into_bytes()).collect();
            prop_assert_eq!(framed(&stream, piece, 1000).0, expected);
        }

        #[test]
        fn no_stream_causes_a_panic(stream in prop::collection::vec(any::<u8>(), 0..500), longest in 1usize..50) {
            for message in framed(&stream, 7, longest).0 {
                prop_assert!(message.len() <= longest.max(DIGITS));
            }
        }
    }
}
