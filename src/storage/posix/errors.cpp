// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "errors.hpp"

#include <cerrno>

namespace cake::inline CAKE_ABI::detail {

const char* remedy(int number) {
  switch (number) {
    case EMFILE:
      return "raise this process's limit of open files (ulimit -n)";
    case ENFILE:
      return "raise the system's limit of open files (sysctl fs.file-max)";
    case ENOSPC:
      return "free space on the file system, or bound the store with capacity_bytes";
    case EDQUOT:
      return "free space, or have the quota raised";
    case EFBIG:
      return "raise the limit of file sizes (ulimit -f), or store smaller chunks";
    case EACCES:
    case EPERM:
      return "give this process's user the right to it (chmod u+rwX, or chown as root)";
    case EROFS:
      return "mount the file system writable, or open the store with read_only";
    case ELOOP:
    case ENOTDIR:
      return "a symbolic link or a file lies where a folder belongs; remove it";
    case EIO:
      return "look for errors of the disk or of the mount in the system's log";
    case ESTALE:
    case ENOTCONN:
      return "the file system went away; mount it again";
    default:
      return "";
  }
}

Error system_error(int number, std::string context) {
  Error error = errno_error(number, std::move(context));
  if (number == EFBIG) error.code = Errc::out_of_memory;
  const char* const what_to_do = remedy(number);
  if (*what_to_do != '\0') error.context.append("; ").append(what_to_do);
  return error;
}

bool means_not_this_way(int number) {
  switch (number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
    case EROFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOENT:
    case ESTALE:
    case ENOTCONN:
      return false;  // another way would fail for the same reason
    default:
      return true;
  }
}

}  // namespace cake::inline CAKE_ABI::detail
