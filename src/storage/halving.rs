//! Splitting a refused request in halves.

use crate::model::{Error, ErrorKind, Result, record::RejectKind};

/// The remaining pieces of a batch, in order. A piece that is refused with an error that [`ErrorKind::is_splittable`] is
/// split in halves, down to the single items that are refused.
pub(crate) struct Halving<'a, T> {
    pieces: Vec<&'a [T]>,
}

impl<'a, T> Halving<'a, T> {
    /// All items in one piece, if there are any.
    pub(crate) fn of(items: &'a [T]) -> Self {
        Self { pieces: vec![items] }
    }

    /// Replaces a refused piece with its halves. For a piece of one item, returns why the target cannot store it.
    ///
    /// # Errors
    /// The error itself, if splitting would not help.
    pub(crate) fn refused(&mut self, piece: &'a [T], error: Error) -> Result<Option<(RejectKind, String)>> {
        if !error.kind().is_splittable() {
            return Err(error);
        }
        if piece.len() > 1 {
            let (first, second) = piece.split_at(piece.len() / 2);
            self.pieces.extend([second, first]);
            return Ok(None);
        }
        let kind = match error.kind() {
            ErrorKind::RequestTooLarge => RejectKind::ValueTooLarge,
            _ => RejectKind::RefusedByTarget,
        };
        Ok(Some((kind, error.message().to_owned())))
    }
}

impl<'a, T> Iterator for Halving<'a, T> {
    type Item = &'a [T];

    fn next(&mut self) -> Option<&'a [T]> {
        self.pieces.pop().filter(|piece| !piece.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_alone_is_found_and_the_rest_passes_in_order() {
        let items: Vec<u32> = (0..100).collect();
        let mut halving = Halving::of(&items);
        let (mut passed, mut refused, mut requests) = (Vec::<u32>::new(), Vec::<u32>::new(), 0);
        while let Some(piece) = halving.next() {
            requests += 1;
            if !piece.contains(&37) && !piece.contains(&99) {
                passed.extend(piece);
                continue;
            }
            let error = Error::new(ErrorKind::BatchRefused, "no");
            if let Some((kind, _)) = halving.refused(piece, error).unwrap() {
                assert_eq!(kind, RejectKind::RefusedByTarget);
                refused.extend(piece);
            }
        }
        assert_eq!(refused, [37, 99]);
        assert!(passed.is_sorted() && passed.len() == 98, "{passed:?}");
        assert!(requests < 30, "{requests}");
    }

    #[test]
    fn any_other_error_ends_it() {
        let mut halving = Halving::of(&[1, 2]);
        let piece = halving.next().unwrap();
        let error = halving.refused(piece, Error::new(ErrorKind::Full, "full"));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Full);
        assert!(Halving::<u8>::of(&[]).next().is_none());
    }
}
