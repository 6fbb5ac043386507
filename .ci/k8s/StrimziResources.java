import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.introspect.Annotated;
import com.fasterxml.jackson.databind.introspect.JacksonAnnotationIntrospector;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.strimzi.api.kafka.model.kafka.Kafka;
import io.strimzi.api.kafka.model.nodepool.KafkaNodePool;
import io.strimzi.api.kafka.model.topic.KafkaTopic;
import io.strimzi.api.kafka.model.user.KafkaUser;
import java.io.File;
import java.util.Map;

/**
 * Checks objects of Strimzi's kinds against Strimzi's own classes. The classes collect unknown fields and read unknown values as
 * null. So an object is read, written again, and compared.
 *
 * <p>StrimziResources.java OBJECTS.json prints a line for each problem: the object's number, a tab, the problem.
 */
public class StrimziResources {
    private static final Map<String, Class<?>> KINDS =
            Map.of("Kafka", Kafka.class, "KafkaNodePool", KafkaNodePool.class, "KafkaTopic", KafkaTopic.class, "KafkaUser", KafkaUser.class);

    public static void main(String[] args) throws Exception {
        // Unknown fields are an error, and are not collected.
        ObjectMapper mapper = new ObjectMapper()
                .enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
                .setAnnotationIntrospector(new JacksonAnnotationIntrospector() {
                    @Override
                    public Boolean hasAnySetter(Annotated member) {
                        return false;
                    }
                });
        JsonNode objects = mapper.readTree(new File(args[0]));
        for (int number = 0; number < objects.size(); number++) {
            JsonNode object = objects.get(number);
            Class<?> kind = KINDS.get(object.path("kind").asText());
            String version = object.path("apiVersion").asText();
            if (kind == null || !version.equals("kafka.strimzi.io/v1")) {
                report(number, "there is no definition of the kind " + version + " " + object.path("kind").asText());
                continue;
            }
            try {
                ObjectNode rewritten = mapper.valueToTree(mapper.treeToValue(object, kind));
                // The class writes the version that it prefers.
                compare(number, "", object, rewritten.set("apiVersion", object.get("apiVersion")));
            } catch (JsonProcessingException error) {
                report(number, error.getOriginalMessage());
            }
        }
    }

    /** Every field of the original must be in the rewritten object. Added fields are defaults. */
    private static void compare(int number, String path, JsonNode original, JsonNode rewritten) {
        if (original.isObject()) {
            original.fieldNames().forEachRemaining(name -> compare(number, path + "/" + name, original.get(name), rewritten.path(name)));
        } else if (original.isArray() && rewritten.size() == original.size()) {
            for (int index = 0; index < original.size(); index++) {
                compare(number, path + "/" + index, original.get(index), rewritten.get(index));
            }
        } else if (!original.asText().equals(rewritten.asText()) || rewritten.isMissingNode()) {
            report(number, path + " has a value that Strimzi does not know: " + original);
        }
    }

    private static void report(int number, String problem) {
        System.out.println(number + "\t" + problem.replace('\n', ' '));
    }
}
