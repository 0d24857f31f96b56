// query-chardev, query-chardev-backends, chardev-add, -remove, -change, -send-break, ringbuf-read, -write.
#include "src/chardev/make.h"
#include "src/control/command.h"
#include "src/value/base64.h"

namespace vmm {

namespace {

struct ChardevInfo {
  std::string label, filename;
  bool frontend_open = false;
};
struct BackendInfo {
  std::string name;
};
struct AddArgs {
  std::string id;
  Value backend;
};
struct AddAnswer {
  std::optional<std::string> pty;
};
struct IdArgs {
  std::string id;
};
enum class DataFormat : u8 { utf8, base64 };
struct ReadArgs {
  std::string device;
  i64 size = 0;
  std::optional<DataFormat> format;
};
struct WriteArgs {
  std::string device, data;
  std::optional<DataFormat> format;
};

}  // namespace

template <>
inline constexpr std::array enum_names<DataFormat> = {EnumNameOf{DataFormat::utf8, std::string_view{"utf8"}},
                                                      EnumNameOf{DataFormat::base64, std::string_view{"base64"}}};
template <>
inline constexpr std::array fields<ChardevInfo> = {
    field<&ChardevInfo::label>("label", "Its id."),
    field<&ChardevInfo::filename>("filename", "Where it leads, as text."),
    field<&ChardevInfo::frontend_open>("frontend-open", "Whether a guest has its end open."),
};
template <>
inline constexpr std::array fields<BackendInfo> = {field<&BackendInfo::name>("name", "Name of the kind.")};
template <>
inline constexpr std::array fields<AddArgs> = {
    field<&AddArgs::id>("id", "Id of the new back end."),
    field<&AddArgs::backend>("backend", "Its kind and options."),
};
template <>
inline constexpr std::array fields<AddAnswer> = {field<&AddAnswer::pty>("pty", "Path of the new pseudo-terminal.")};
template <>
inline constexpr std::array fields<IdArgs> = {field<&IdArgs::id>("id", "Id of the back end.")};
template <>
inline constexpr std::array fields<ReadArgs> = {
    field<&ReadArgs::device>("device", "Id of a ringbuf."),
    field<&ReadArgs::size>("size", "Most bytes to read."),
    field<&ReadArgs::format>("format", "How bytes become text."),
};
template <>
inline constexpr std::array fields<WriteArgs> = {
    field<&WriteArgs::device>("device", "Id of a ringbuf."),
    field<&WriteArgs::data>("data", "What to write."),
    field<&WriteArgs::format>("format", "How text becomes bytes."),
};

namespace {

// Bytes as JSON may carry them: what is not UTF-8 becomes U+FFFD.
std::string as_utf8(std::span<const u8> bytes) {
  std::string out;
  for (usize i = 0; i < bytes.size();) {
    const u8 b = bytes[i];
    const unsigned more = b < 0x80 ? 0 : b >= 0xc2 && b < 0xe0 ? 1 : b >= 0xe0 && b < 0xf0 ? 2 : b >= 0xf0 && b < 0xf5 ? 3 : 9;
    bool good = more < 9 && i + more < bytes.size();
    for (unsigned k = 1; good && k <= more; k++) good = (bytes[i + k] & 0xc0) == 0x80;
    if (good && more == 2) good = !(b == 0xe0 && bytes[i + 1] < 0xa0) && !(b == 0xed && bytes[i + 1] >= 0xa0);
    if (good && more == 3) good = !(b == 0xf0 && bytes[i + 1] < 0x90) && !(b == 0xf4 && bytes[i + 1] >= 0x90);
    if (good) {
      out.append(reinterpret_cast<const char*>(&bytes[i]), more + 1);
      i += more + 1;
    } else {
      out += "\xef\xbf\xbd";
      i++;
    }
  }
  return out;
}

Result<std::vector<ChardevInfo>> query_chardev(control::Context&) {
  std::vector<ChardevInfo> list;
  for (Chardev* c : all_chardevs()) list.push_back({c->label(), c->filename(), c->front() && c->front_open()});
  return list;
}
Result<std::vector<BackendInfo>> query_backends(control::Context&) {
  std::vector<BackendInfo> list;
  for (const std::string& name : chardev_backend_names()) list.push_back({name});
  return list;
}
Result<Chardev*> found(const std::string& id) {
  Chardev* c = find_chardev(id);
  if (!c) return fail("Chardev '{}' not found", id);
  return c;
}
Result<AddAnswer> chardev_add(control::Context&, const AddArgs& args) {
  if (find_chardev(args.id)) return fail("Chardev with id '{}' already exists", args.id);
  EventLoop* loop = chardev_loop();
  if (!loop) return fail("character devices cannot be added before the main loop is there");
  const Value options = TRY(chardev_options_from_qmp(args.id, args.backend));
  const Ref<Chardev> made = TRY(make_chardev(*loop, options));
  AddAnswer answer;
  if (const std::string name = made->filename(); name.starts_with("pty:")) answer.pty = name.substr(4);
  return answer;
}
Result<void> chardev_remove(control::Context&, const IdArgs& args) {
  Chardev* c = TRY(found(args.id));
  TRY(c->may_remove());
  c->parent()->remove_child(*c);
  return {};
}
// The new back end takes the place of the old one, and the front end stays.
Result<AddAnswer> chardev_change(control::Context&, const AddArgs& args) {
  Chardev* old = TRY(found(args.id));
  if (old->is_mux()) return fail("Mux device hotswap not supported yet");
  EventLoop* loop = chardev_loop();
  if (!loop) return fail("character devices cannot be changed before the main loop is there");
  const std::string new_id = args.id + "-new";
  if (find_chardev(new_id)) return fail("Chardev with id '{}' already exists", new_id);
  CharFrontEnd* front = old->front();
  if (front && !front->may_change()) return fail("Chardev user does not support chardev hotswap");
  const Ref<Chardev> made = TRY(make_chardev(*loop, TRY(chardev_options_from_qmp(new_id, args.backend))));
  const Ref<Chardev> keep{old};
  Object& folder = *old->parent();
  if (front) old->detach(*front);
  folder.remove_child(*old);
  folder.remove_child(*made);
  folder.add_child(args.id, made);
  if (front) {
    front->changed(*made);
    TRY(made->attach(*front));
  }
  AddAnswer answer;
  if (const std::string name = made->filename(); name.starts_with("pty:")) answer.pty = name.substr(4);
  return answer;
}
Result<void> chardev_send_break(control::Context&, const IdArgs& args) {
  Chardev* c = TRY(found(args.id));
  if (c->front()) c->front()->char_event(ChardevEvent::break_);
  return {};
}
Result<Chardev*> found_ringbuf(const std::string& id) {
  Chardev* c = find_chardev(id);
  if (!c) return fail("Device '{}' not found", id);
  if (!c->stores()) return fail("{} is not a ringbuf device", id);
  return c;
}
Result<std::string> ringbuf_read(control::Context&, const ReadArgs& args) {
  Chardev* c = TRY(found_ringbuf(args.device));
  if (args.size <= 0) return fail("size must be greater than zero");
  const std::vector<u8> bytes = c->read_stored(usize(args.size));
  return args.format.value_or(DataFormat::utf8) == DataFormat::base64 ? to_base64(bytes) : as_utf8(bytes);
}
Result<void> ringbuf_write(control::Context&, const WriteArgs& args) {
  Chardev* c = TRY(found_ringbuf(args.device));
  std::vector<u8> bytes{args.data.begin(), args.data.end()};
  if (args.format.value_or(DataFormat::utf8) == DataFormat::base64) bytes = TRY(from_base64(args.data));
  c->write(bytes);
  return {};
}

std::string print_chardevs(const Value& answer) {
  std::string text;
  for (const Value& v : answer.items())
    text += format("{}: filename={}\n", v.find("label")->get_string(), v.find("filename")->get_string());
  return text;
}

using control::command;
const control::Registered commands[] = {
    control::Registered{command<query_chardev>({.name = "query-chardev",
                                                .doc = "Character back ends.",
                                                .human = "info chardev",
                                                .human_help = "show the character devices",
                                                .human_print = print_chardevs})},
    control::Registered{command<query_backends>({.name = "query-chardev-backends", .doc = "Kinds of character back ends."})},
    control::Registered{command<chardev_add>({.name = "chardev-add", .doc = "Make a character back end."})},
    control::Registered{command<chardev_remove>({.name = "chardev-remove",
                                                 .doc = "Remove a character back end.",
                                                 .human = "chardev-remove",
                                                 .human_args = "id:s",
                                                 .human_help = "remove chardev"})},
    control::Registered{command<chardev_change>({.name = "chardev-change", .doc = "Replace a character back end."})},
    control::Registered{command<chardev_send_break>({.name = "chardev-send-break",
                                                     .doc = "Send a break to the front end.",
                                                     .human = "chardev-send-break",
                                                     .human_args = "id:s",
                                                     .human_help = "send a break on chardev"})},
    control::Registered{command<ringbuf_read>({.name = "ringbuf-read", .doc = "Take bytes out of a ringbuf."})},
    control::Registered{command<ringbuf_write>({.name = "ringbuf-write",
                                                .doc = "Put bytes into a ringbuf.",
                                                .human = "ringbuf_write",
                                                .human_args = "device:s,data:s",
                                                .human_help = "write to a ring buffer character device"})},
};

}  // namespace

}  // namespace vmm
