// Commands on what displays show.
#include "src/control/command.h"
#include "src/ui/screen.h"

namespace vmm {
namespace ui {
enum class ImageFormat { ppm, png };
struct ScreendumpArgs {
  std::string filename;
  std::optional<std::string> device;
  std::optional<i64> head;
  std::optional<ImageFormat> format;
};
}  // namespace ui
template <>
inline constexpr std::array enum_names<ui::ImageFormat> = {EnumNameOf<ui::ImageFormat>{ui::ImageFormat::ppm, "ppm"},
                                                           EnumNameOf<ui::ImageFormat>{ui::ImageFormat::png, "png"}};
template <>
inline constexpr std::array fields<ui::ScreendumpArgs> = {
    field<&ui::ScreendumpArgs::filename>("filename", "File to write."),
    field<&ui::ScreendumpArgs::device>("device", "Display device; the first one if absent."),
    field<&ui::ScreendumpArgs::head>("head", "Head of the device.", {.min = 0}),
    field<&ui::ScreendumpArgs::format>("format", "Form of the picture; ppm if absent."),
};

namespace ui {
static Result<> screendump(control::Context&, const ScreendumpArgs& args) {
  if (args.head && !args.device) return fail("'head' must be specified together with 'device'");
  Screen* screen = find_screen(args.device.value_or(""));
  if (!screen) {
    if (args.device) return fail(ErrorClass::device_not_found, "Device '{}' not found", *args.device);
    return fail("There is no console to take a screendump from");
  }
  if (args.head.value_or(0) != 0) return fail("Parameter 'head' does not accept value '{}'; the device has one head", *args.head);
  const Picture picture = screen->picture();
  return args.format.value_or(ImageFormat::ppm) == ImageFormat::png ? write_png(picture, args.filename) : write_ppm(picture, args.filename);
}
static control::Registered registered_screendump{
    control::command<screendump>({.name = "screendump",
                                  .doc = "Saves what a display shows to a file.",
                                  .since = "0.14",
                                  .human = "screendump",
                                  .human_args = "filename:s,device:s?,format:-fs",
                                  .human_help = "screendump filename [device] [-f ppm|png] -- save the screen to a picture file"})};

static Result<std::string> info_screen(control::Context&, std::span<const std::string>) {
  Screen* screen = find_screen({});
  if (!screen) return fail("There is no display");
  std::string text = screen->text();
  if (!text.empty()) return text;
  const Picture p = screen->picture();
  return p.width ? format("graphics, {} x {}\n", p.width, p.height) : std::string{"the display is off\n"};
}
static control::Registered registered_info_screen{
    control::human<info_screen>({.human = "info screen", .human_help = "info screen -- the text on the screen"})};
}  // namespace ui
}  // namespace vmm
