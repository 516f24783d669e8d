//! The RouterOS API's framing: words with a length before them, sentences ended by an empty word.
//!
//! This codec is our own on purpose: the simulator is the independent check of the client library
//! that the enforcer uses. It reads words across any segmentation and bounds what it will hold.
//! Source: MikroTik's manual, "API", sections "API words" and "API sentences".

/// The most bytes one sentence may have, counted without the length prefixes.
pub const MAX_SENTENCE: usize = 64 * 1024;

/// The most words one sentence may have.
pub const MAX_WORDS: usize = 1024;

/// Why the bytes of a peer are not a sentence; the connection cannot go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SentenceError {
    /// The first byte of a length is 0xF8 or more, which the protocol reserves.
    #[error("the length of a word starts with the reserved control byte {0:#04x}")]
    ControlByte(u8),
    /// The sentence exceeds [`MAX_SENTENCE`] bytes.
    #[error("a sentence has more than {MAX_SENTENCE} bytes")]
    TooLong,
    /// The sentence exceeds [`MAX_WORDS`] words.
    #[error("a sentence has more than {MAX_WORDS} words")]
    TooManyWords,
}

/// The words of one sentence, without the empty one that ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentence {
    text: Vec<u8>,
    /// Where each word ends in `text`.
    ends: Vec<u32>,
}

impl Sentence {
    /// A sentence of these words. Empty words end sentences on the wire and are left out.
    pub fn new<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Self {
        let mut sentence = Self::default();
        for word in words {
            if !word.as_ref().is_empty() {
                sentence.push(word.as_ref());
            }
        }
        sentence
    }

    /// The words in order.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let word = &self.text[start..end as usize];
            start = end as usize;
            word
        })
    }

    /// The bytes of all words together.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// True when there is no word.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends the sentence as it goes over the wire, with its end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in self.words() {
            encode_word(out, word);
        }
        out.push(0);
    }

    fn push(&mut self, word: &[u8]) {
        self.text.extend_from_slice(word);
        self.ends.push(self.text.len() as u32);
    }
}

/// Makes sentences of bytes as they arrive, at most one sentence beyond what was fed.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of `buffer` is already taken.
    taken: usize,
    partial: Sentence,
}

impl Decoder {
    /// Where the next bytes from the peer go.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        &mut self.buffer
    }

    /// The next whole sentence, or `None` until more bytes come. Empty sentences are skipped.
    pub fn take_sentence(&mut self) -> Result<Option<Sentence>, SentenceError> {
        while let Some((prefix, length)) = decode_length(&self.buffer[self.taken..])? {
            if length == 0 {
                self.taken += prefix;
                if !self.partial.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.partial)));
                }
                continue;
            }
            if self.partial.size() + length > MAX_SENTENCE {
                return Err(SentenceError::TooLong);
            }
            if self.partial.ends.len() == MAX_WORDS {
                return Err(SentenceError::TooManyWords);
            }
            let start = self.taken + prefix;
            let Some(word) = self.buffer.get(start..start + length) else { break };
            self.partial.push(word);
            self.taken = start + length;
        }
        Ok(None)
    }
}

/// Appends one word with its length.
pub fn encode_word(out: &mut Vec<u8>, word: &[u8]) {
    encode_length(out, word.len());
    out.extend_from_slice(word);
}

/// Appends the one to five bytes that say a length.
pub fn encode_length(out: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("no word of the simulator reaches 4 GiB");
    let bytes = length.to_be_bytes();
    match length {
        0..0x80 => out.push(bytes[3]),
        0x80..0x4000 => out.extend_from_slice(&[bytes[2] | 0x80, bytes[3]]),
        0x4000..0x20_0000 => out.extend_from_slice(&[bytes[1] | 0xC0, bytes[2], bytes[3]]),
        0x20_0000..0x1000_0000 => out.extend_from_slice(&[bytes[0] | 0xE0, bytes[1], bytes[2], bytes[3]]),
        _ => out.extend_from_slice(&[0xF0, bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

/// The bytes that a length takes and the length itself, or `None` when some are still missing.
pub fn decode_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, SentenceError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let (prefix, high) = match first {
        0..0x80 => (1, first),
        0x80..0xC0 => (2, first & 0x3F),
        0xC0..0xE0 => (3, first & 0x1F),
        0xE0..0xF0 => (4, first & 0x0F),
        0xF0..0xF8 => (5, first & 0x07),
        0xF8.. => return Err(SentenceError::ControlByte(first)),
    };
    let Some(rest) = bytes.get(1..prefix) else { return Ok(None) };
    let length = rest.iter().fold(usize::from(high), |length, &byte| length << 8 | usize::from(byte));
    Ok(Some((prefix, length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_in_pieces(bytes: &[u8], piece: usize) -> Result<Vec<Sentence>, SentenceError> {
        let mut decoder = Decoder::default();
        let mut sentences = Vec::new();
        for chunk in bytes.chunks(piece) {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(sentence) = decoder.take_sentence()? {
                sentences.push(sentence);
            }
        }
        Ok(sentences)
    }

    #[test]
    fn lengths_take_the_bytes_that_the_manual_says() {
        for (length, bytes) in [
            (0, &[0x00][..]),
            (0x7F, &[0x7F]),
            (0x80, &[0x80, 0x80]),
            (0x3FFF, &[0xBF, 0xFF]),
            (0x4000, &[0xC0, 0x40, 0x00]),
            (0x1F_FFFF, &[0xDF, 0xFF, 0xFF]),
            (0x20_0000, &[0xE0, 0x20, 0x00, 0x00]),
            (0x0FFF_FFFF, &[0xEF, 0xFF, 0xFF, 0xFF]),
            (0x1000_0000, &[0xF0, 0x10, 0x00, 0x00, 0x00]),
        ] {
            let mut out = Vec::new();
            encode_length(&mut out, length);
            assert_eq!(out, bytes, "{length:#x}");
            assert_eq!(decode_length(bytes), Ok(Some((bytes.len(), length))));
            assert_eq!(decode_length(&bytes[..bytes.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn a_reserved_control_byte_ends_the_conversation() {
        assert_eq!(decode_in_pieces(&[0xF8], 1), Err(SentenceError::ControlByte(0xF8)));
        assert_eq!(decode_in_pieces(&[0xFF, 0, 0], 3), Err(SentenceError::ControlByte(0xFF)));
    }

    #[test]
    fn a_sentence_of_many_small_or_one_huge_word_is_refused_before_it_is_held() {
        let mut huge = Vec::new();
        encode_length(&mut huge, MAX_SENTENCE + 1);
        assert_eq!(decode_in_pieces(&huge, 1), Err(SentenceError::TooLong));
        let many: Vec<u8> = std::iter::repeat_n([1, b'x'], MAX_WORDS + 1).flatten().collect();
        assert_eq!(decode_in_pieces(&many, 100), Err(SentenceError::TooManyWords));
    }

    #[test]
    fn empty_sentences_are_skipped() {
        assert_eq!(decode_in_pieces(&[0, 0, 1, b'x', 0, 0], 1), Ok(vec![Sentence::new(["x"])]));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            sentences in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..6), 0..6),
            piece in 1usize..64,
        ) {
            let sentences: Vec<Sentence> = sentences.iter().map(Sentence::new).collect();
            let mut bytes = Vec::new();
            for sentence in &sentences {
                sentence.encode(&mut bytes);
            }
            prop_assert_eq!(decode_in_pieces(&bytes, piece), Ok(sentences));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), piece in 1usize..64) {
            let _ = decode_in_pieces(&bytes, piece);
        }
    }
}
