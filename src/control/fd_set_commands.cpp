// add-fd, remove-fd, query-fdsets, getfd, closefd.
#include "src/control/command.h"
#include "src/io/fd_set.h"

namespace vmm {

namespace {
struct AddFdArgs {
  std::optional<i64> set;
  std::optional<std::string> opaque;
};
struct AddFdAnswer {
  i64 set = 0, fd = 0;
};
struct RemoveFdArgs {
  i64 set = 0;
  std::optional<i32> fd;
};
struct NameArgs {
  std::string name;
};
struct FdInfo {
  i64 fd = 0;
  std::optional<std::string> opaque;
};
struct FdSetAnswer {
  i64 set = 0;
  std::vector<FdInfo> fds;
};
}  // namespace

template <>
inline constexpr std::array fields<AddFdArgs> = {
    field<&AddFdArgs::set>("fdset-id", "Set to add it to; the lowest free number without it."),
    field<&AddFdArgs::opaque>("opaque", "A text that query-fdsets shows."),
};
template <>
inline constexpr std::array fields<AddFdAnswer> = {
    field<&AddFdAnswer::set>("fdset-id", "The set."),
    field<&AddFdAnswer::fd>("fd", "The descriptor's number here."),
};
template <>
inline constexpr std::array fields<RemoveFdArgs> = {
    field<&RemoveFdArgs::set>("fdset-id", "The set."),
    field<&RemoveFdArgs::fd>("fd", "One of its descriptors; all of them without it."),
};
template <>
inline constexpr std::array fields<NameArgs> = {field<&NameArgs::name>("fdname", "Name of the descriptor.")};
template <>
inline constexpr std::array fields<FdInfo> = {
    field<&FdInfo::fd>("fd", "The descriptor's number."),
    field<&FdInfo::opaque>("opaque", "The text that came with it."),
};
template <>
inline constexpr std::array fields<FdSetAnswer> = {
    field<&FdSetAnswer::set>("fdset-id", "The set."),
    field<&FdSetAnswer::fds>("fds", "Its descriptors."),
};

namespace {
Result<AddFdAnswer> add_fd(control::Context& context, const AddFdArgs& args) {
  Fd fd{TRY(context.take_fd())};
  const int number = fd.get();
  return AddFdAnswer{.set = TRY(io::add_to_fd_set(args.set, std::move(fd), args.opaque.value_or(""))), .fd = number};
}
Result<void> remove_fd(control::Context&, const RemoveFdArgs& args) { return io::remove_from_fd_set(args.set, args.fd); }
Result<std::vector<FdSetAnswer>> query_fdsets(control::Context&) {
  std::vector<FdSetAnswer> list;
  for (const io::FdSetInfo& set : io::fd_sets()) {
    FdSetAnswer answer{.set = set.id, .fds = {}};
    for (const auto& m : set.members)
      answer.fds.push_back({.fd = m.fd, .opaque = m.opaque.empty() ? std::nullopt : std::optional{m.opaque}});
    list.push_back(std::move(answer));
  }
  return list;
}
Result<void> get_fd(control::Context& context, const NameArgs& args) { return io::name_fd(args.name, Fd{TRY(context.take_fd())}); }
Result<void> close_fd(control::Context&, const NameArgs& args) {
  if (!args.name.empty() && args.name[0] >= '0' && args.name[0] <= '9') return fail("File descriptor named '{}' not found", args.name);
  TRY(io::take_named_fd(args.name));
  return {};
}
using control::command;
const control::Registered commands[] = {
    control::Registered{command<add_fd>({.name = "add-fd", .doc = "Put a descriptor that comes with the command into a set."})},
    control::Registered{command<remove_fd>({.name = "remove-fd", .doc = "Take descriptors out of a set."})},
    control::Registered{
        command<get_fd>({.name = "getfd", .doc = "Give a descriptor that comes with the command a name.", .allow_oob = false})},
    control::Registered{command<close_fd>({.name = "closefd", .doc = "Close a descriptor that has a name."})},
    control::Registered{command<query_fdsets>({.name = "query-fdsets", .doc = "The sets of descriptors."})},
};
}  // namespace
}  // namespace vmm
