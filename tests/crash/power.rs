//! A power cut: the data directory is an ext4 file system in a file. A copy of the file, taken while the server is frozen, holds what had
//! reached the disk; what the kernel still kept in memory is not in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use chappe_tests::Failure;

/// A file system in a file, mounted. Needs root.
pub struct Disk {
    image: PathBuf,
    copy: PathBuf,
    mounted_at: PathBuf,
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

impl Disk {
    /// A file system of `size_mib` MiB, in a file in `directory`.
    pub fn mount(directory: &Path, mounted_at: &Path, size_mib: u64) -> Result<Self, Failure> {
        let image = directory.join("disk.img");
        fs::File::create(&image)?.set_len(size_mib << 20)?;
        fs::create_dir_all(mounted_at)?;
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &image])?;
        let disk = Self { copy: directory.join("disk.copy"), image, mounted_at: mounted_at.to_owned() };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<(), Failure> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mounted_at])
    }

    /// Keeps what the disk holds now.
    pub fn snapshot(&self) -> Result<(), Failure> {
        run("cp", &[Path::new("--sparse=always"), &self.image, &self.copy])
    }

    /// Puts the disk back to the snapshot. The server must be gone.
    pub fn restore(&self) -> Result<(), Failure> {
        run("umount", &[&self.mounted_at])?;
        fs::rename(&self.copy, &self.image)?;
        self.attach()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server, dropped after this, may still hold files.
        let _ = run("umount", &[Path::new("-l"), &self.mounted_at]);
    }
}
