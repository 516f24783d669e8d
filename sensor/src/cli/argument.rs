//! Takes a secret out of the process list. The kernel shows a process's arguments from its memory,
//! so writing over them there is enough; no other process can have read them by a later `ps`.

use std::io::{Read, Seek, SeekFrom, Write};

/// Writes over each place where the secret stands among this process's arguments. Where that
/// fails the secret stays visible, which is worth a warning and no more.
pub fn wipe(secret: &str) {
    if secret.len() > 1
        && let Err(error) = try_wipe(secret)
    {
        eprintln!("atalaya-sensor: the token could not be taken out of the process list: {error}");
    }
}

fn try_wipe(secret: &str) -> std::io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the program's name in parentheses, may hold spaces: count after it.
    let after_name = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
    let field = |number: usize| after_name.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    // Fields 48 and 49 of proc(5): arg_start and arg_end.
    let (Some(start), Some(end)) = (field(48), field(49)) else {
        return Err(std::io::Error::other("/proc/self/stat shows no argument addresses"));
    };
    let mut memory = std::fs::File::options().read(true).write(true).open("/proc/self/mem")?;
    memory.seek(SeekFrom::Start(start))?;
    let mut arguments = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
    memory.read_exact(&mut arguments)?;
    let mut from = 0;
    while let Some(found) =
        arguments[from..].windows(secret.len()).position(|window| window == secret.as_bytes())
    {
        let place = start + (from + found) as u64;
        memory.seek(SeekFrom::Start(place))?;
        memory.write_all(&vec![b'x'; secret.len()])?;
        from += found + secret.len();
    }
    Ok(())
}
