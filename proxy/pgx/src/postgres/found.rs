//! Makes a cluster from nothing.

use pgx_control::ids::Incarnation;

use super::error::{Error, system};
use super::hands::Hands;
use super::program::{self, Program};
use super::settings::{self, Managed};
use super::{hba, rebuild, roles};

/// What is half done while a cluster is founded.
const MARK: &str = "founding";

impl Hands {
    /// Makes a cluster in an empty directory, with checksums and the members' role, and leaves it
    /// stopped. `words` are more of them for initdb: locale and encoding. What an earlier try left
    /// half done is removed.
    ///
    /// # Errors
    /// When there is something in the directory that is not such a left-over, or a program fails.
    pub(crate) fn found(&self, directory: Incarnation, words: &[String]) -> Result<(), Error> {
        let place = &self.place;
        place.make_folder()?;
        rebuild::end_strays(place)?;
        let has_begun = rebuild::mark(place)?.as_deref() == Some(MARK);
        if has_begun {
            super::files::remove_all(&place.data, &mut || self.abort.check())?;
        }
        let mut entries = std::fs::read_dir(&place.data).into_iter().flatten();
        if entries.next().is_some() {
            return Err(Error::NotEmpty(place.data.clone()));
        }
        rebuild::set_mark(place, MARK)?;
        place.make_own_directory(&place.data)?;
        Program::new(place, "initdb")
            .arg("--pgdata")
            .arg(&place.data)
            .args(["--username", &place.user, "--data-checksums"])
            .args(["--auth-local=peer", "--auth-host=scram-sha-256"])
            .args(words)
            .limit(crate::limits::postgres::START_MAX * 4)
            .run(&self.abort)?;
        place.own(|| hba::write(place, &place.data.join("pg_hba.conf")))?;
        settings::write(place, &Managed::new(directory))?;
        let password = roles::password(place)?;
        self.write_pass_file()?;
        let statements = roles::statements(place, false, &password);
        // By a single user, so that nobody can come before it is as it should be. That one takes
        // an empty line for the end of a statement.
        Program::new(place, "postgres")
            .args(["--single", "-j", "-D"])
            .arg(&place.data)
            .args(program::config_words(place))
            // A statement that fails would else only be told of.
            .args(["-c", "exit_on_error=on", &place.database])
            .input(statements.iter().map(|one| format!("{one};\n\n")).collect())
            .run(&self.abort)?;
        std::fs::File::open(&place.data)
            .and_then(|folder| folder.sync_all())
            .map_err(system("cannot sync", &place.data))?;
        rebuild::remove_mark(place)
    }
}
