//! Secrets that a single node makes for itself and keeps in files for the owner's eyes only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::{
    config::{RootKeys, Secret},
    failure::Failure,
    seams::draw_secret,
};

/// Characters of a generated access key.
const USER_CHARS: usize = 16;
/// Characters of a generated password: 192 bits.
const PASSWORD_CHARS: usize = 32;
/// Characters of a generated cluster secret: 256 bits.
const SECRET_CHARS: usize = 43;

/// Root's keys from `folder`, made when they are not there. `true` when they were.
///
/// # Errors
/// [`Failure`] when the file cannot be read or written.
pub fn root_keys(folder: &Path) -> Result<RootKeys, Failure> {
    let draw = || Ok(format!("{}\n{}\n", draw_user()?, draw_secret(PASSWORD_CHARS)?));
    let text = kept(folder, "credentials", draw)?;
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(user), Some(password)) if !user.is_empty() && password.len() >= 8 => {
            Ok(RootKeys { user: user.to_owned(), password: password.to_owned() })
        }
        _ => Err(Failure::new(
            format!("read {}: it is not two lines", folder.join("credentials").display()),
            "write the access key and the secret key into it, or remove it to get new ones",
        )),
    }
}

/// The cluster secret from `folder`, made when it is not there.
///
/// # Errors
/// [`Failure`] when the file cannot be read or written.
pub fn cluster_secret(folder: &Path) -> Result<Secret, Failure> {
    let text = kept(folder, "cluster-secret", || draw_secret(SECRET_CHARS))?;
    Ok(Secret(text.trim().to_owned()))
}

/// A cluster secret for this process alone.
///
/// # Errors
/// [`Failure`] when the kernel has no randomness.
pub fn passing_secret() -> Result<Secret, Failure> {
    let drawn = draw_secret(SECRET_CHARS).map(Secret);
    drawn.map_err(|error| Failure::new(format!("draw a secret: {error}"), "check the machine"))
}

/// An access key: letters and digits only, so that it needs no quoting anywhere.
fn draw_user() -> io::Result<String> {
    let drawn = draw_secret(4 * USER_CHARS)?;
    let letters = drawn.chars().filter(char::is_ascii_alphanumeric).take(USER_CHARS);
    Ok(letters.collect::<String>().to_uppercase())
}

/// The text of a file, which is made when it is not there: readable for its owner alone, durable
/// before it is used.
fn kept(
    folder: &Path,
    name: &str,
    draw: impl FnOnce() -> io::Result<String>,
) -> Result<String, Failure> {
    let path = folder.join(name);
    let read_or_make = || match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
            let text = draw()?;
            let temporary = folder.join(format!("{name}.tmp"));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(folder)?.sync_all()?;
            Ok(text)
        }
        other => other,
    };
    read_or_make().map_err(|error| {
        Failure::new(
            format!("keep {}: {error}", path.display()),
            "make the folder writable for this user, or start elsewhere",
        )
    })
}

/// What a first start shows: where, who, and three lines to try.
#[must_use]
pub fn greeting(endpoint: &str, root: &RootKeys, file: &Path) -> String {
    let RootKeys { user, password } = root;
    format!(
        "\nHoldfast serves S3 at {endpoint}\n\
         \n  access key  {user}\
         \n  secret key  {password}\
         \n  (kept in {})\n\
         \nTry it:\
         \n  export AWS_ACCESS_KEY_ID={user} AWS_SECRET_ACCESS_KEY={password} AWS_DEFAULT_REGION=us-east-1\
         \n  aws --endpoint-url {endpoint} s3 mb s3://first\
         \n  aws --endpoint-url {endpoint} s3 cp README.md s3://first/\n",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Goal: what is made once stays, and is for the owner only. Method: read twice, look at the mode.
    #[test]
    fn keys_are_made_once_and_are_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("data");
        let keys = root_keys(&folder).expect("made");
        assert_eq!(root_keys(&folder).expect("kept"), keys);
        assert_eq!((keys.user.len(), keys.password.len()), (USER_CHARS, PASSWORD_CHARS));
        assert!(keys.user.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()));
        let secret = cluster_secret(&folder).expect("made");
        assert_eq!(cluster_secret(&folder).expect("kept"), secret);
        assert_ne!(passing_secret().expect("drawn"), secret);
        for name in ["credentials", "cluster-secret"] {
            let mode = fs::metadata(folder.join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        fs::write(folder.join("credentials"), "only one line").expect("written");
        assert!(root_keys(&folder).is_err());
    }
}
