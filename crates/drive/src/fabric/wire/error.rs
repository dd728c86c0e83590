//! Errors of drives: refusals keep their ballots, failures their class.

use holdfast_proto::{WireError, v1, value};
use holdfast_register::Refusal;
use holdfast_types::{DriveId, ErrorClass, HybridTime, SetEpoch};

use crate::api::DriveError;

/// An error as a message.
#[must_use]
pub fn drive_error(error: &DriveError) -> v1::DriveError {
    use v1::drive_error::Reason;
    let (drive, reason) = match error {
        DriveError::Refused { drive, refusal } => (drive, Reason::Refused(refused(refusal))),
        DriveError::Failed { drive, class, message } => {
            let class = u32::from(*class as u8);
            (drive, Reason::Failed(v1::Failure { class, message: message.clone() }))
        }
    };
    v1::DriveError { drive: value::id(drive.to_bytes()), reason: Some(reason) }
}

/// The inverse of [`drive_error`].
///
/// # Errors
/// [`WireError`] when the message is malformed.
pub fn read_drive_error(message: &v1::DriveError) -> Result<DriveError, WireError> {
    use v1::drive_error::Reason;
    let drive = DriveId::from_bytes(value::read_id(&message.drive, "drive")?);
    match message.reason.as_ref().ok_or(WireError::Missing("reason"))? {
        Reason::Refused(refusal) => {
            Ok(DriveError::Refused { drive, refusal: read_refused(refusal)? })
        }
        Reason::Failed(failure) => {
            let class = value::narrow::<u8>(failure.class, "error class")?;
            let class = ErrorClass::try_from(class)
                .map_err(|source| WireError::Record { field: "error class", source })?;
            Ok(DriveError::Failed { drive, class, message: failure.message.clone() })
        }
    }
}

fn refused(refusal: &Refusal) -> v1::Refusal {
    use v1::refusal::Refusal as Kind;
    let kind = match refusal {
        Refusal::Stale { highest } => Kind::Stale(value::ballot(highest)),
        Refusal::Promised { promise } => Kind::Promised(value::ballot(promise)),
        Refusal::BallotReused => Kind::BallotReused(true),
        Refusal::TooFarAhead { now } => Kind::TooFarAhead(now.0),
        Refusal::Purged { floor } => Kind::Purged(value::ballot(floor)),
        Refusal::BucketOutdated { current } => Kind::BucketOutdated(value::stamp(current)),
        Refusal::BucketNotLive { current } => Kind::BucketNotLive(value::stamp(current)),
        Refusal::SetOutdated { current } => Kind::SetOutdated(current.0),
        Refusal::UploadLost => Kind::UploadLost(true),
        Refusal::UploadNotOpen => Kind::UploadNotOpen(true),
        Refusal::Crowded => Kind::Crowded(true),
        Refusal::NotPurgeable => Kind::NotPurgeable(true),
    };
    v1::Refusal { refusal: Some(kind) }
}

fn read_refused(message: &v1::Refusal) -> Result<Refusal, WireError> {
    use v1::refusal::Refusal as Kind;
    Ok(match message.refusal.as_ref().ok_or(WireError::Missing("refusal"))? {
        Kind::Stale(ballot) => Refusal::Stale { highest: value::read_ballot(ballot)? },
        Kind::Promised(ballot) => Refusal::Promised { promise: value::read_ballot(ballot)? },
        Kind::BallotReused(_) => Refusal::BallotReused,
        Kind::TooFarAhead(now) => Refusal::TooFarAhead { now: HybridTime(*now) },
        Kind::Purged(ballot) => Refusal::Purged { floor: value::read_ballot(ballot)? },
        Kind::BucketOutdated(stamp) => {
            Refusal::BucketOutdated { current: value::read_stamp(stamp)? }
        }
        Kind::BucketNotLive(stamp) => Refusal::BucketNotLive { current: value::read_stamp(stamp)? },
        Kind::SetOutdated(epoch) => Refusal::SetOutdated { current: SetEpoch(*epoch) },
        Kind::UploadLost(_) => Refusal::UploadLost,
        Kind::UploadNotOpen(_) => Refusal::UploadNotOpen,
        Kind::Crowded(_) => Refusal::Crowded,
        Kind::NotPurgeable(_) => Refusal::NotPurgeable,
    })
}
