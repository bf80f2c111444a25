// Replays the golden trace of one agent's folder with ONNX Runtime, written from docs/bundle-format.md alone.
//     replay FOLDER [--time]
// Exit 0: every step agrees. Exit 1: a step differs. Exit 2: the folder cannot be used.
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>
#include <openssl/evp.h>
#include <zip.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using Json = nlohmann::json;
using std::string;

const double ABSOLUTE = 1e-5, RELATIVE = 1e-5, NEAR_TIE = 1e-5;  // the tolerances of a folder alone
const float NO_BOUND = 1e15f;  // bounds count as float32

struct Unusable : std::runtime_error {
    using runtime_error::runtime_error;
};

void require(bool condition, const string& sentence) {
    if (!condition) throw Unusable(sentence);
}

string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    require(std::filesystem::is_regular_file(path) && file, path.string() + " is missing or cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

string sha256(const string& data) {
    unsigned char digest[32];
    require(EVP_Digest(data.data(), data.size(), digest, nullptr, EVP_sha256(), nullptr), "OpenSSL has no SHA-256");
    string text(64, ' ');
    for (int i = 0; i < 64; i++) text[i] = "0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    return text;
}

// ---- golden.npz: a ZIP archive of .npy arrays

struct Array {
    size_t steps, width;  // width 1: one number a step
    string data;
    template <class T> std::vector<T> row(size_t t) const {
        std::vector<T> numbers(width);
        if (width) std::memcpy(numbers.data(), data.data() + t * width * sizeof(T), width * sizeof(T));
        return numbers;
    }
};

// dtype: as .npy writes it. shape: what follows the number of steps in the shape, as .npy writes it, for example ", 7".
Array read_array(zip_t* archive, const string& name, const string& dtype, const string& shape) {
    zip_stat_t entry;
    zip_file_t* file = zip_fopen(archive, name.c_str(), 0);
    require(file && !zip_stat(archive, name.c_str(), 0, &entry) && entry.size <= 32 << 20,
            "golden.npz has no usable " + name);
    string bytes(entry.size, 0);
    bool whole = zip_fread(file, bytes.data(), bytes.size()) == zip_int64_t(bytes.size());
    zip_fclose(file);
    require(whole && bytes.size() > 10 && bytes.compare(0, 8, "\x93NUMPY\x01\x00", 8) == 0,
            name + " in golden.npz is not an array in .npy format 1.0");
    size_t header = (unsigned char)bytes[8] + 256 * (unsigned char)bytes[9];
    require(10 + header <= bytes.size() && header <= 1024, name + " in golden.npz has too long a header");
    string said = bytes.substr(10, header);
    std::smatch found;
    std::regex form(R"(\{'descr': '([^']+)', 'fortran_order': False, 'shape': \((\d{1,7})(,[^)]*)\), \}\s*)");
    require(std::regex_match(said, found, form) && found[1] == dtype && (found[3] == shape || found[3] == shape + ","),
            name + " in golden.npz is not of the type and shape that agent.json calls for");
    Array array{std::stoul(found[2]), shape.size() > 1 ? std::stoul(shape.substr(2)) : 1, bytes.substr(10 + header)};
    size_t size = dtype == "<f4" ? 4 : dtype == "<i8" ? 8 : 1;
    require(array.data.size() == array.steps * array.width * size, name + " in golden.npz has too few or too many bytes");
    return array;
}

// ---- the action space: whole numbers have sizes and starts, real values have low and high

struct Space {
    std::vector<int64_t> sizes, starts;
    std::vector<float> low, high;
    bool rounded = false;

    explicit Space(const Json& said) {
        string type = said.at("type");
        if (type == "discrete") {
            sizes = {said.at("n")}, starts = {said.value("start", int64_t(0))};
        } else if (type == "multi_discrete") {
            sizes = said.at("sizes").get<std::vector<int64_t>>(), starts = said.at("starts").get<std::vector<int64_t>>();
        } else if (type == "box") {
            low = said.at("low").get<std::vector<float>>(), high = said.at("high").get<std::vector<float>>();
            rounded = said.value("whole", false);
        } else {
            throw Unusable("agent.json has an action space of unknown type " + type);
        }
    }
    bool bounded(size_t i) const { return low[i] > -NO_BOUND && high[i] < NO_BOUND; }
    float half_range(size_t i) const { return bounded(i) ? (high[i] - low[i]) / 2 : 1; }
    float from_mean(size_t i, float mean) const {  // bounded, not rounded
        float middle = bounded(i) ? (low[i] + high[i]) / 2 : std::min(std::max(0.0f, low[i]), high[i]);
        return std::min(std::max(middle + half_range(i) * mean, low[i]), high[i]);
    }
    bool fits(size_t elements, size_t entries) const {
        if (!low.empty()) return low.size() == elements && high.size() == elements && entries == elements;
        int64_t sum = 0;
        for (int64_t size : sizes) sum += size;
        bool possible = !sizes.empty() && *std::min_element(sizes.begin(), sizes.end()) > 0;
        return possible && sizes.size() == elements && starts.size() == elements && sum == int64_t(entries);
    }
};

double allowed(double trace, double unit = 1) { return ABSOLUTE * std::max(unit, 1.0) + RELATIVE * std::abs(trace); }

bool close(const std::vector<float>& ours, const std::vector<float>& trace) {
    for (size_t i = 0; i < trace.size(); i++)
        if (!(std::abs(double(ours[i]) - trace[i]) <= allowed(trace[i]))) return false;
    return true;
}

enum Verdict { DIFFERS, TIE, EQUAL };

Verdict judge(const Space& space, const std::vector<int64_t>& ours, const std::vector<int64_t>& trace,
              const std::vector<float>& logits) {
    if (ours == trace) return EQUAL;
    auto first = logits.begin();
    for (size_t i = 0; i < ours.size(); first += space.sizes[i++]) {
        int64_t place = ours[i] - space.starts[i];
        if (place < 0 || place >= space.sizes[i]) return DIFFERS;
        if (double(*std::max_element(first, first + space.sizes[i])) - first[place] > NEAR_TIE) return DIFFERS;
    }
    return TIE;
}

Verdict judge(const Space& space, const std::vector<float>& ours, const std::vector<float>& trace,
              const std::vector<float>& mean) {
    if (ours == trace) return EQUAL;
    for (size_t i = 0; i < ours.size(); i++) {
        double exact = space.rounded ? space.from_mean(i, mean[i]) : trace[i];
        double most = allowed(exact, space.half_range(i)) + (space.rounded ? 0.5 + NEAR_TIE : 0);
        if (!(std::abs(ours[i] - exact) <= most)) return DIFFERS;
        bool possible = ours[i] == std::round(ours[i]) && space.low[i] <= ours[i] && ours[i] <= space.high[i];
        if (space.rounded && !possible) return DIFFERS;
    }
    return space.rounded ? TIE : EQUAL;
}

template <class Action> int replay(const Json& agent, std::map<string, string>& files, bool timed) {
    const Space space(agent.at("action_space"));
    const bool real = !space.low.empty(), masked = agent.at("mask_rule") == "forbid";
    const size_t obs_size = agent.at("inputs").at(0).at("shape").at(0), choices = agent.at("outputs").at(1).at("shape").at(0);
    const Json shape = agent.at("outputs").at(0).at("shape");  // [] or [elements of an action]
    const Json& inputs = agent.at("inputs");
    const bool drawn = std::any_of(inputs.begin(), inputs.end(), [](const Json& one) { return one.at("name") == "noise"; });
    const size_t memory = agent.at("state").is_null() ? 0 : agent.at("state").at("size").get<size_t>();

    zip_error_t error;
    string& packed = files.at("golden.npz");
    zip_source_t* source = zip_source_buffer_create(packed.data(), packed.size(), 0, &error);
    zip_t* archive = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : nullptr;
    require(archive, "golden.npz is not a ZIP archive");
    auto wide = [](size_t width) { return ", " + std::to_string(width); };
    const Array obs = read_array(archive, "obs.npy", "<f4", wide(obs_size));
    const Array mask = read_array(archive, "action_mask.npy", "|b1", wide(choices));
    const Array reset = read_array(archive, "reset.npy", "|b1", ",");
    const Array action = read_array(archive, "action.npy", real ? "<f4" : "<i8", shape.empty() ? "," : wide(shape[0]));
    const Array policy = read_array(archive, "policy.npy", "<f4", wide(choices));
    const Array state = read_array(archive, "state_out.npy", "<f4", wide(memory));
    const Array noise = drawn ? read_array(archive, "noise.npy", "<f4", wide(choices)) : policy;
    zip_discard(archive);
    require(space.fits(action.width, choices), "agent.json: the action space and the outputs are of different sizes");
    for (auto* array : {&mask, &reset, &action, &policy, &state, &noise})
        require(array->steps == obs.steps, "the arrays of golden.npz differ in their number of steps");

    // One session on one thread. Inputs and outputs are buffers that every step uses again; each leads with the batch of 1.
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "replay");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1).SetInterOpNumThreads(1);
    const string& model = files.at("policy.onnx");
    Ort::Session session(env, model.data(), model.size(), options);
    auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<string> names[2];
    std::vector<Ort::Value> tensors[2];
    auto bind = [&](int side, auto* numbers, size_t width, bool scalar = false) {
        const int64_t sizes[] = {1, int64_t(width)};
        names[side].push_back(agent.at(side ? "outputs" : "inputs").at(names[side].size()).at("name"));
        tensors[side].push_back(Ort::Value::CreateTensor(cpu, numbers, width, sizes, scalar ? 1 : 2));
    };
    std::vector<float> seen(obs_size), by(choices), remembered(memory), out(choices), next(memory);
    std::vector<uint8_t> legal(choices);
    std::vector<Action> chosen(action.width);
    bind(0, seen.data(), obs_size);
    if (masked) bind(0, reinterpret_cast<bool*>(legal.data()), choices);
    if (drawn) bind(0, by.data(), choices);
    if (memory) bind(0, remembered.data(), memory);
    bind(1, chosen.data(), action.width, shape.empty());
    bind(1, out.data(), choices);
    if (memory) bind(1, next.data(), memory);
    std::vector<const char*> given[2];
    for (int side : {0, 1})
        for (auto& name : names[side]) given[side].push_back(name.c_str());

    std::vector<double> microseconds;
    auto decide = [&](size_t t) {
        if (reset.data[t]) std::fill(remembered.begin(), remembered.end(), 0.0f);
        auto now = obs.row<float>(t);
        std::copy(now.begin(), now.end(), seen.begin());
        auto draw = noise.row<float>(t);
        std::copy(draw.begin(), draw.end(), by.begin());
        std::memcpy(legal.data(), mask.data.data() + t * choices, choices);
        auto begin = std::chrono::steady_clock::now();
        session.Run(Ort::RunOptions{nullptr}, given[0].data(), tensors[0].data(), tensors[0].size(), given[1].data(),
                    tensors[1].data(), tensors[1].size());
        microseconds.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
        remembered.assign(next.begin(), next.end());  // the same size, so the same buffer
    };

    size_t count[3] = {}, differ = 0, first = 0;
    for (size_t t = 0; t < obs.steps; t++) {
        decide(t);
        Verdict verdict = judge(space, chosen, action.row<Action>(t), policy.row<float>(t));
        count[verdict]++;
        bool same = verdict != DIFFERS && close(out, policy.row<float>(t)) && close(next, state.row<float>(t));
        if (!same && !differ++) first = t;
    }
    std::printf("agent %s: %zu of %zu golden actions equal", agent.at("agent").get<string>().c_str(), count[EQUAL], obs.steps);
    if (count[TIE]) std::printf(", near ties: %zu", count[TIE]);
    if (differ) std::printf("; steps that differ in action, policy or state: %zu, the first is step %zu", differ, first);
    std::printf("\n");
    if (timed) {
        for (int again = 0; again < 20; again++)
            for (size_t t = 0; t < obs.steps; t++) decide(t);
        auto middle = microseconds.begin() + microseconds.size() / 2;
        std::nth_element(microseconds.begin(), middle, microseconds.end());
        std::printf("one decision: %.2f microseconds (median of %zu)\n", *middle, microseconds.size());
    }
    return differ ? 1 : 0;
}

int main(int argc, char** argv) {
    const bool timed = argc == 3 && string(argv[2]) == "--time";
    try {
        require(argc == 2 || timed, "usage: replay FOLDER [--time]");
        const std::filesystem::path folder = argv[1];
        const Json agent = Json::parse(read_file(folder / "agent.json"));
        require(agent.at("schema_version") == 4, "agent.json has schema version " + agent.at("schema_version").dump() + ", not 4");
        const std::set<string> known{"policy.onnx", "golden.npz", "profile.npz", "policy.h", "policy.c", "self_test.c", "leapp.yaml"};
        std::map<string, string> files;
        for (auto& [name, digest] : agent.at("files").items()) {
            require(known.count(name), "agent.json lists an unknown file: " + name);
            files[name] = read_file(folder / name);
            require(sha256(files[name]) == digest, (folder / name).string() + " is not what was exported (its SHA-256 differs)");
        }
        for (auto name : {"policy.onnx", "golden.npz", "profile.npz"})
            require(files.count(name), string("agent.json lists no ") + name);
        bool real = agent.at("action_space").at("type") == "box";
        return real ? replay<float>(agent, files, timed) : replay<int64_t>(agent, files, timed);
    } catch (const Json::exception& error) {
        std::fprintf(stderr, "agent.json is not as the format says: %s\n", error.what());
    } catch (const Ort::Exception& error) {
        std::fprintf(stderr, "ONNX Runtime cannot use policy.onnx: %s\n", error.what());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
    }
    return 2;
}
